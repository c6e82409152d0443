# frozen_string_literal: true

module Spanring
  module RAAF
    # A trace processor for RAAF, which hands spans to the engine:
    #
    #     RAAF::Tracing.set_trace_processors(Spanring::RAAF::Processor.new)
    #
    # Each span is copied while the call lasts; it is not changed, nor kept. No method but `new` raises, whatever the span is; all may be
    # called by any thread or fiber, in trap handlers, and as the process ends.
    class Processor
      # How long a shutdown waits, in seconds.
      SHUTDOWN_SECONDS = 5.0
      # A span that is older than that, in seconds, and has not ended, will not.
      LONGEST_SECONDS = 300
      FIELDS = %i[span_id trace_id parent_id name kind start_time end_time attributes events status].freeze
      # A span of which only these are known.
      Fields = Struct.new(*FIELDS)
      FAILURES = [StandardError, ScriptError, SystemStackError, NoMemoryError].freeze
      # What stops a thread from outside (Timeout, Thread#raise, Thread#kill) waits until a span is recorded: it is the host's, not ours to rescue.
      LATER = { Object => :never }.freeze
      NO_ATTRIBUTES = {}.freeze
      # What can be used of a span that cannot be used as it is.
      PLAIN = Hash.new([String, Symbol, Numeric, Time].freeze).merge!(attributes: [Hash].freeze, events: [Array].freeze).freeze
      private_constant :FIELDS, :Fields, :FAILURES, :LATER, :NO_ATTRIBUTES, :PLAIN

      # Starts the process's pipeline, unless it was started before, with the preset `raaf` if no other is chosen; the environment is read now.
      #
      # All settings of docs/settings.md may be given, in lower case, and what RAAF's own processors take: `batch_size`, `flush_interval`,
      # `retry_attempts`, `compression` (true is gzip), `queue_size` (which is max_spans), and `worker_count`, which has no meaning here. What
      # RAAF::Tracing.configure was told counts as well (`max_spans_in_memory`, `cleanup_interval`). Raises ArgumentError for what is no
      # setting, Spanring::Error if the pipeline cannot be started.
      def initialize(worker_count: nil, **settings)
        Spanring.send(:say_once, :worker_count, <<~SAID.chomp) if worker_count
          worker_count has no meaning here: one thread outside the interpreter delivers all spans
        SAID
        settings = settings_of(settings)
        @content = Conventions.content(settings[:capture_content], environment: !settings[:ignore_environment])
        @openai = Conventions.switch("OPENAI", settings[:openai], environment: !settings[:ignore_environment])
        @recorded = @repeated = @unrecorded = @damaged = @failed = 0
        @waited_at = nil
        @looked_around = false
        Processor.start(settings)
      end

      # Whether prompts, completions, and what tools take and give are recorded.
      def content? = @content

      def on_span_start(span)
        Thread.handle_interrupt(LATER) do
          if Conventions.kind(span.kind).openai_type == "trace"
            # Its children may be here before it.
            Spanring.send(:_remember_trace, span.trace_id, span.span_id)
          end
        rescue *FAILURES
          # Its end says so.
        end
        nil
      end

      def on_span_end(span)
        Thread.handle_interrupt(LATER) { take(span) }
        nil
      end

      # Takes several spans; Hashes with the same names do, too.
      def export(spans)
        Thread.handle_interrupt(LATER) do
          spans.each { |span| take(span) }
        rescue *FAILURES => error
          fail_with(error)
        end
        nil
      end

      # Has everything sealed and sent that was recorded. Returns at once; with a timeout in seconds it waits, while other threads run, and
      # says whether everything was delivered.
      def force_flush(timeout: nil)
        if timeout.nil?
          Spanring.send(:_seal)
          return nil
        end
        Spanring.flush(timeout)
        true
      rescue Error, ArgumentError, TypeError
        # The time was up, or is none. What else comes is the host's.
        false
      end
      alias flush force_flush

      # Delivers what was recorded, within so many seconds. The pipeline goes on: spans may follow, and another shutdown.
      def shutdown(timeout: SHUTDOWN_SECONDS)
        # A receiver that does not answer holds up one of them, not each.
        return nil if @waited_at == @recorded

        @waited_at = @recorded
        force_flush(timeout: timeout)
        nil
      end

      # Counts of spans: recorded, recorded before (`repeated`), not recorded since there is no pipeline or the sampler said no (`unrecorded`),
      # recorded without what could not be read (`damaged`), of which nothing could be read (`failed`).
      def stats
        { recorded: @recorded, repeated: @repeated, unrecorded: @unrecorded, damaged: @damaged, failed: @failed }
      end

      class << self
        # For `new`: the process has one pipeline, whichever processor started it.
        def start(settings)
          Spanring.start(**settings)
          @settings = settings
        rescue Error => error
          raise ArgumentError, error.message if error.code == 4 # SPANRING_ERROR_ARGUMENT
          raise unless error.code == 6 # SPANRING_ERROR_STARTED

          ignored = settings.keys - %i[preset capture_content]
          return if ignored.empty? || settings == @settings

          Spanring.send(:say_once, :started, <<~SAID.chomp)
            the pipeline was started before Spanring::RAAF::Processor.new, which uses it as it is: give #{ignored.join(", ")} to Spanring.start
          SAID
        end
      end

      private

      def settings_of(given)
        settings = { preset: "raaf" }.merge!(configured, given.compact)
        queue_size = settings.delete(:queue_size)
        settings[:max_spans] = queue_size if queue_size && !given.key?(:max_spans)
        compression = settings[:compression]
        settings[:compression] = compression ? "gzip" : "none" if [true, false].include?(compression)
        settings
      end

      # What RAAF::Tracing.configure was told.
      def configured
        return {} unless defined?(::RAAF::Tracing) && ::RAAF::Tracing.respond_to?(:configuration)

        configuration = ::RAAF::Tracing.configuration
        { max_spans: :max_spans_in_memory, cleanup_interval: :cleanup_interval }.filter_map do |name, theirs|
          value = configuration.public_send(theirs) if configuration.respond_to?(theirs)
          # ActiveSupport's durations are numbers in all but their class.
          [name, value.respond_to?(:to_f) && !value.is_a?(Numeric) && !value.is_a?(String) ? value.to_f : value] if value
        end.to_h
      end

      def take(span)
        span = Fields.new(*span.values_at(*FIELDS)) if Hash === span
        record(span)
      rescue *FAILURES => error
        salvage(span, error)
      end

      def record(span)
        look_around unless @looked_around
        kind = Conventions.kind(span.kind)
        attributes = span.attributes || NO_ATTRIBUTES
        added, kept = Conventions.apart(kind, attributes, span, content: @content)
        name = span.name
        name = name.nil? ? kind.name : name.to_s unless String === name || Symbol === name
        status = Conventions.status(span.status, attributes)
        start = Times.nanos(span.start_time)
        finish = Times.nanos(span.end_time)
        if finish.nil?
          finish = Times.now
          age = (finish - (start || finish)) / Times::SECOND
          status = [:error, "not finished after #{age} seconds"] if age > LONGEST_SECONDS
        end
        start ||= finish
        events = span.events
        events = events.nil? || events.empty? ? nil : events_of(events, start, finish)
        count(Spanring.send(:_record_raaf, name, kind.span_kind, kind.openai_type == "trace", status, span.trace_id, span.span_id,
                            span.parent_id, start, finish, added, kept, events))
      end

      def count(outcome)
        case outcome
        when true then @recorded += 1
        when false then @repeated += 1
        else @unrecorded += 1
        end
      end

      # Flat: name, time, attributes.
      def events_of(events, start, finish)
        events.each_with_object([]) do |event, found|
          name = event[:name] || event["name"]
          time = event[:timestamp] || event["timestamp"]
          nanos = Times.nanos(time) || finish
          # RAAF's have whole seconds, so that those of the first second would stand before the span.
          nanos = start if nanos < start && start - nanos < Times::SECOND && Times.whole_seconds?(time)
          attributes = event[:attributes] || event["attributes"]
          attributes = attributes.reject { |key, _| Conventions.content?(key) } unless @content || attributes.nil?
          found << (String === name || Symbol === name ? name : name.to_s) << nanos << attributes
        end
      end

      # A span, or a part of it, that cannot be read: what can be is recorded, and that something is missing.
      def salvage(span, error)
        said = "#{error.class}: #{text_of(error)}"
        fields = Fields.new(*FIELDS.map { |field| read(span, field) })
        return fail_with(error) if fields.span_id.nil? && fields.name.nil?

        @damaged += 1
        report(said)
        whole = fields.attributes
        fields.attributes = whole ? whole.merge("spanring.error" => said) : { "spanring.error" => said }
        fields.events = fields.events&.grep(Hash)
        begin
          record(fields)
        rescue *FAILURES
          fields.attributes = { "spanring.error" => said }
          fields.events = []
          fields.start_time = fields.end_time = fields.status = nil
          record(fields)
        end
      rescue *FAILURES => second
        fail_with(second)
      end

      def read(span, field)
        value = span.__send__(field)
        PLAIN[field].any? { |type| type === value } ? value : nil
      rescue *FAILURES
        nil
      end

      # Without what error_highlight adds.
      def text_of(error)
        error.message.to_s.scrub.lines.first.to_s.chomp
      rescue *FAILURES
        "(no message)"
      end

      def fail_with(error)
        @failed += 1
        report("#{error.class}: #{text_of(error)}")
      end

      def report(said)
        Spanring.send(:say_once, :span, <<~SAID.chomp)
          a span of RAAF could not be read in whole (#{said}); Spanring::RAAF::Processor#stats counts such spans, this is said once
        SAID
      rescue *FAILURES
        nil
      end

      # Both of us would send everything to OpenAI.
      def look_around
        @looked_around = true
        return unless @openai && defined?(::RAAF::Tracing::OpenAIProcessor) && defined?(::RAAF::Tracing::TraceProvider)

        # Not asked for, which would make one.
        provider = ::RAAF::Tracing::TraceProvider.instance_variable_get(:@instance)
        processors = provider&.processors || []
        inner = processors.map { |processor| processor.instance_variable_get(:@exporter) }
        return unless (processors + inner).any?(::RAAF::Tracing::OpenAIProcessor)

        Spanring.send(:say_once, :openai, <<~SAID.chomp)
          RAAF's own OpenAI processor is there as well, so OpenAI gets every span twice: set RAAF_SKIP_DEFAULT_PROCESSORS=true, \\
          or use RAAF::Tracing.set_trace_processors, or set SPANRING_OPENAI=false
        SAID
      end
    end
  end
end
