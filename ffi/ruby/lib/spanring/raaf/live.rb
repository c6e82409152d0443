# frozen_string_literal: true

require "securerandom"

module Spanring
  module RAAF
    module Conventions
      # What the extension does by itself (`Stack.describe`): names by slot, where that is all there is to do, and the names of contents'
      # types. A name that is a target of ours and is there already is not for it.
      slots = SLOTS.keys
      names = slots.map { |slot| RENAMED[slot] || COUNTS[slot] || { input: "input.value", output: "output.value" }[slot] }
      types = slots.map { |slot| { input: "input.mime_type", output: "output.mime_type" }[slot] }
      targets = names.compact + types.compact + KINDS.values.flat_map { |kind| kind.names.keys } + ["gen_ai.response.finish_reasons"]
      targets += targets.map(&:to_sym)
      Stack.conventions(targets.to_h { |name| [name, nil] }.merge(KNOWN).freeze, names.freeze, types.freeze, COUNT_SLOT_COUNT)
    end

    # A span of RAAF's that the engine has under way. RAAF and its processors read it like one of their own.
    #
    # Attributes are collected as RAAF does, and recorded as the span ends. Invariant: it is recorded once.
    module Live
      ZEROS = "0" * 32
      # The engine's IDs are of 64 bits; OpenAI's have 24 digits.
      MORE_DIGITS = "0" * 8
      NO_PARENT = { "openai.parent_id" => "" }.freeze
      FAILURES = [StandardError, ScriptError, SystemStackError, NoMemoryError].freeze
      # What stops a thread from outside (Timeout, Thread#raise, Thread#kill) waits meanwhile: it is the host's, not ours to rescue.
      LATER = { Object => :never }.freeze
      private_constant :ZEROS, :MORE_DIGITS, :NO_PARENT, :FAILURES, :LATER

      @content = true
      class << self
        # Whether prompts, completions, and what tools take and give are recorded.
        attr_reader :content

        def content=(value)
          @content = Stack.content = value
        end

        # Digits that no span of the engine has, for one whose trace ID is RAAF's.
        def new_span_id = "span_#{SecureRandom.hex(8)}#{MORE_DIGITS}"

        # The ID of a Live, a Span or a Context, as RAAF writes them.
        def span_id(of)
          return of.span_id if Live === of

          digits = of.span_id
          ZEROS.start_with?(digits) ? "span_#{SecureRandom.hex(16)}" : "span_#{digits}#{MORE_DIGITS}"
        end

        def trace_id(of)
          return of.trace_id if Live === of

          digits = of.trace_id
          digits == ZEROS ? "trace_#{SecureRandom.hex(16)}" : "trace_#{digits}"
        end

        # The Kind, and what its spans always say: texts as Symbols, which cost less. The same once more below a trace, which to OpenAI is
        # no parent.
        def always(kind) = @always[kind] || add_always(kind)

        private

        def add_always(kind)
          of = Conventions.kind(kind)
          always = of.names.transform_values(&:to_sym)
          found = [of, *[always, always.merge(NO_PARENT)].map { |names| packed(names) }].freeze
          @always[kind] = found if Conventions::KINDS.key?(kind)
          found
        end

        # Packed once: names are numbers for good.
        def packed(names)
          2.times { Stack.pack(names) } # the second time they are numbers
          names.instance_variable_set(:@packed, Stack.pack(names))
          names.freeze
        end
      end
      @always = {}

      # Whoever includes it has kind, name, attributes, status, engine (the Spanring::Span), outer, and the private parent (a Live, a Span, a
      # Context, or nil) and took (milliseconds, once it has ended).

      def span_id = @span_id ||= Live.span_id(engine)
      def trace_id = @trace_id ||= Live.trace_id(engine)
      def parent_id = parent && (@parent_id ||= Live.span_id(parent))
      def start_time = @start_time ||= Time.now.utc - Stack.age(engine) / 1000.0
      def end_time = took && (@end_time ||= start_time + took / 1000.0)
      def events = @events ||= []
      def finished? = !took.nil?
      def trace? = kind == :trace

      # Seconds; nil until it has ended.
      def duration = took && took / 1000.0

      private

      # Records what was collected, and ends the span. Called `apart`.
      def end_live(end_time = nil)
        quietly { describe }
        quietly { say_status }
      ensure
        quietly { engine.end_at(end_time) } if end_time
        engine.end
      end

      # Without content, that of an event is left out, too.
      def record_event(name, timestamp, attributes)
        attributes = attributes.to_h
        attributes = attributes.reject { |key, _| Conventions.content?(key) } unless Live.content
        Stack.event(engine, (Times.nanos(timestamp) if timestamp) || Times.now, name.to_s, attributes)
      end

      # Recording fails no host: an error in it is said once.
      def apart = Thread.handle_interrupt(LATER) { quietly { yield } }

      # The same where that waits already.
      def quietly
        yield
      rescue *FAILURES => error
        not_recorded(error)
      end

      def not_recorded(error)
        text = error.message.lines.first.to_s.chomp # without what error_highlight adds
        Spanring.send(:say_once, :live, <<~SAID.chomp)
          a span of RAAF was not recorded in whole, or other processors not told of it (#{error.class}: #{text}); this is said once
        SAID
      rescue *FAILURES
        nil # it has no message
      end

      def say_status
        if status == :ok
          engine.status(:ok)
        elsif status
          code, message = Conventions.status(status, attributes)
          engine.status(code, message)
          engine.critical if code == :error
        end
      end

      def describe
        of, always, below_trace = Live.always(kind)
        always = below_trace if Live === parent && parent.trace?
        return if Live.content && maps? && Stack.describe(engine, always, attributes, true)

        added, kept = Conventions.apart(of, attributes, self, content: Live.content)
        Stack.describe(engine, {}.merge!(always, added), kept, false)
      end

      # Whether the counts of tokens are all in the attributes.
      def maps? = true
    end
  end
end
