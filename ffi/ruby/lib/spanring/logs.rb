# frozen_string_literal: true

# trace_id and span_id in log records.
module Spanring
  # For Logger#formatter=: puts trace_id and span_id of the current span before each message, if there is one.
  class LogFormatter
    def initialize(formatter = nil)
      @formatter = formatter
    end

    def call(severity, time, progname, message)
      @formatter ||= ::Logger::Formatter.new
      fields = Spanring.log_fields
      unless fields.empty?
        message = message.is_a?(Exception) ? message.full_message(highlight: false) : message.is_a?(String) ? message : message.inspect
        message = "trace_id=#{fields[:trace_id]} span_id=#{fields[:span_id]} #{message}"
      end
      @formatter.call(severity, time, progname, message)
    end
  end

  # { trace_id:, span_id: } of what is current, for a log record; empty if there is nothing.
  def self.log_fields
    trace_id, span_id = _current_ids
    trace_id ? { trace_id: trace_id, span_id: span_id } : {}
  end

  private_class_method :_current_ids
end
