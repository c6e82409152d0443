# frozen_string_literal: true

# Spans as RAAF hands them to processors, in both shapes.
require "securerandom"
require "time"

module RAAFSpans
  # As RAAF::Tracing::Span.
  class Whole
    attr_reader :span_id, :trace_id, :parent_id, :name, :kind, :start_time, :end_time, :attributes, :events, :status
    attr_accessor :input_tokens, :output_tokens, :total_tokens

    def initialize(**fields)
      fields.each { |name, value| instance_variable_set(:"@#{name}", value) }
    end

    def finished? = !@end_time.nil?
    def duration = @end_time && @end_time - @start_time
  end

  START = Time.utc(2026, 1, 2, 3, 4, 5 + Rational(123_456_789, 1_000_000_000))
  START_NANOS = START.to_i * 1_000_000_000 + START.nsec
  MILLISECOND = 1_000_000

  module_function

  def fields(given)
    { span_id: "span_#{SecureRandom.hex(16)}", trace_id: "trace_#{SecureRandom.hex(16)}", parent_id: nil, name: "span", kind: :custom,
      start_time: START, end_time: START + Rational(1, 1000), attributes: {}, events: [], status: :ok }.merge(given)
  end

  def whole(**given) = Whole.new(**fields(given))

  # As Traceable's: an object with readers of its own, and a duration that raises.
  def bare(**given)
    of = fields(given)
    span = Object.new
    of.each { |name, value| span.define_singleton_method(name) { value } }
    span.define_singleton_method(:duration) { calculate_duration(of) }
    span.define_singleton_method(:finished?) { !of[:end_time].nil? }
    span.define_singleton_method(:to_h) { of }
    span
  end

  SHAPES = %i[whole bare].freeze
end
