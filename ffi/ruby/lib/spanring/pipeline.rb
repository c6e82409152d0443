# frozen_string_literal: true

# Now, since a trap handler cannot require.
require "json"

# The process's pipeline: settings, start, flush, shutdown, counts, messages.
module Spanring
  VERSION = LIBRARY_VERSION
  private_constant :LIBRARY_VERSION

  # What the engine had to say: `severity` is :fatal, :error, :warn, :info or :debug.
  Message = Struct.new(:severity, :text)

  SEVERITIES = %i[fatal error warn info debug].freeze
  IGNORE_ENVIRONMENT = 1
  FLUSH_EACH_SPAN = 2
  private_constant :SEVERITIES, :IGNORE_ENVIRONMENT, :FLUSH_EACH_SPAN
  @said = []
  @said_of = {}

  # Settings under way: each name of docs/settings.md in lower case can be set.
  class Settings
    def initialize(values)
      @values = values.dup
    end

    def []=(name, value)
      @values[name.to_sym] = value
    end

    def [](name)
      @values[name.to_sym]
    end

    # The settings as their environment variables would have them.
    def pairs
      @values.reject { |_, value| value.nil? }.map { |name, value| [name.to_s.upcase, Settings.text(name, value)] }
    end

    # Settings whose parts have a semicolon between them.
    RULES = %i[rules levels details].freeze
    private_constant :RULES

    def self.text(name, value)
      case value
      when true, false, String, Symbol, Integer then value.to_s
      when Float then format("%.9f", value).sub(/\.?0+\z/, "")
      when Rational then text(name, value.to_f)
      when Hash then value.map { |key, item| "#{percent(key)}=#{percent(item)}" }.join(",")
      when Array then value.map { |item| text(name, item) }.join(RULES.include?(name.to_sym) ? "; " : ",")
      else
        return value.to_path.to_s if value.respond_to?(:to_path)

        raise TypeError, "setting #{name} must be a String, a number, true, false, a path, an Array or a Hash, not #{value.class}"
      end
    end

    def self.percent(text)
      text.to_s.b.gsub(/[^A-Za-z0-9\-._~]/n) { |byte| format("%%%02X", byte.ord) }
    end
    private_class_method :percent

    private

    def method_missing(name, *arguments)
      if name.end_with?("=") && arguments.size == 1
        self[name.to_s.chomp("=")] = arguments.first
      elsif arguments.empty? && @values.key?(name)
        @values[name]
      else
        super
      end
    end

    def respond_to_missing?(name, _private = false)
      name.end_with?("=") || @values.key?(name)
    end
  end

  class << self
    # Starts the process's pipeline.
    #
    # Settings have the names of docs/settings.md in lower case, as keywords or set in the block; those that are nil are left out. The
    # environment overrides them, unless `ignore_environment` is true; it is read now. With `flush_each_span` the end of each span waits
    # until it is delivered, at most a second. Fork children have a pipeline like this one with their first span.
    def start(ignore_environment: false, flush_each_span: false, **settings)
      found = Settings.new(settings)
      yield found if block_given?
      flags = (ignore_environment ? IGNORE_ENVIRONMENT : 0) | (flush_each_span ? FLUSH_EACH_SPAN : 0)
      _start(found.pairs << ["telemetry.sdk.language", "ruby"], flags)
    end

    # Changes settings while the pipeline runs, all or, with a Spanring::Error, none; they are in force for the next span.
    #
    # Names and values are as for `start`; nil takes back what was given here. They win over the environment, and over the file that
    # `config` names until that says something new. Only settings that docs/settings.md calls live can be changed.
    def change_settings(**changes)
      _change(changes.map { |name, value| [name.to_s.upcase, value.nil? ? "" : Settings.text(name, value)] })
    end

    # The settings in force, by their names: each a Hash with its "value" as text (nil if there is none), its "source", and whether it
    # is "live". Secrets are not in it.
    def settings
      JSON.parse(_settings_json).to_h { |row| [row.delete("name").delete_prefix("SPANRING_").downcase.to_sym, row] }
    end

    # Waits until everything that was recorded is delivered or given up: at most so many seconds, nil for as long as it takes.
    #
    # Raises Spanring::Error if the time is up. Without a pipeline there is nothing to wait for. Other threads run meanwhile.
    def flush(timeout = 5.0)
      _flush(timeout)
    end

    # Delivers what is there and ends the pipeline within so many seconds. At process exit that happens by itself.
    def shutdown(timeout = 5.0)
      _shutdown(timeout)
    end

    # The counts of the pipeline, with each sink by itself.
    def stats
      JSON.parse(_stats_json)
    end

    # What docs/status.md lists of the engine and, with the setting `metrics`, of the spans themselves, by name and kind.
    def metrics
      JSON.parse(_metrics_json)
    end

    # Whether tracing is well: "healthy", and if it is not, the "reasons"; with the numbers that decide.
    def health
      JSON.parse(_health_json)
    end

    # The alerts since the last call, with the setting `alerts` or `alert_webhook`: "alerts", each a Hash as docs/alerts.md has it, how many
    # were "dropped" because nobody took them, and what became of requests to the "webhook".
    def alerts
      JSON.parse(_alerts_json)
    end

    # With the setting `track_errors`, the errors that were seen: "errors", each a Hash as docs/processors.md has it, and how many spans of
    # others were "forgotten".
    def errors
      JSON.parse(_errors_json)
    end

    # What the engine had to say since the last call. It is on standard error as well.
    def messages
      found = []
      while (message = _next_message)
        severity, text = message
        found << Message.new(SEVERITIES.fetch(severity, severity), text)
      end
      found.concat(@said.shift(@said.size))
    end

    private

    # What this package has to say, once: on standard error, and in `messages`.
    def say_once(about, text)
      return if @said_of[about]

      @said_of[about] = true
      @said << Message.new(:warn, text)
      $stderr.write("spanring: warn: #{text}\n")
    rescue StandardError
      # There is nowhere to say so.
    end

    private :_start, :_change, :_flush, :_shutdown, :_stats_json, :_settings_json, :_metrics_json, :_health_json, :_alerts_json, :_errors_json, :_next_message, :_record_raaf, :_remember_trace, :_seal
  end
end
