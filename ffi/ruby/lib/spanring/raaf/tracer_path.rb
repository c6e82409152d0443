# frozen_string_literal: true

module Spanring
  module RAAF
    # A span of RAAF's tracer. The class for it is a subclass of RAAF::Tracing::Span, made by install!.
    module TracerSpan
      include Live

      class << self
        attr_accessor :span_class
      end

      attr_reader :kind, :name, :status, :attributes, :engine

      # As a component's have; it is none's.
      def component = nil

      # A parent is a Live, a Span or a Context; nil for none. A trace ID is RAAF's, if it has one already.
      def initialize(context, name, kind, parent, trace_id)
        @kind = kind
        @name = name
        @parent = parent
        @status = :ok
        @attributes = {}
        @finished = false
        @trace_id = trace_id
        @took = @end_time = @events = nil
        @outer = Stack.outer
        @outer&.outer
        span_kind = Live.always(kind)[0].span_kind
        parent = parent.nil? ? false : Live === parent ? parent.engine : parent
        @engine = Stack.open(context, self, name, span_kind == :internal ? nil : span_kind, parent, trace_id, trace_id && Live.new_span_id)
        Stack.hand_on(self)
      end

      # What has ended is forgotten: spans that overlap, each with the next, would be a chain without an end.
      def outer
        @outer = @outer.outer while @outer&.finished?
        @outer
      end

      def add_event(name, attributes: {}, timestamp: nil)
        apart { record_event(name, timestamp, attributes) }
        events << { name: name, timestamp: timestamp || Time.now.utc.iso8601, attributes: attributes }
        self
      end

      def finish(end_time: nil)
        return self if @finished

        apart do
          @finished = true
          @took = end_time.is_a?(Time) ? (end_time - start_time) * 1000 : Stack.age(@engine)
          @end_time = end_time
          quietly { @attributes["duration_ms"] = @took.round(2) }
          end_live(end_time.is_a?(Time) ? end_time : nil)
          @parent = @parent.engine if Live === @parent # whose IDs are enough now
        end
        self
      end

      def end_span(end_time: nil) = finish(end_time: end_time)

      def to_h
        {
          span_id: span_id, trace_id: trace_id, parent_id: parent_id, name: name, kind: kind, start_time: start_time.iso8601,
          end_time: end_time&.iso8601, duration_ms: @attributes["duration_ms"], attributes: @attributes, events: events, status: @status
        }
      end

      private

      attr_reader :parent, :took

      def maps? = !(respond_to?(:input_tokens) && (input_tokens || output_tokens))
    end

    # Goes before RAAF::Tracing::SpanContext. What is current is so in its fiber; of spans that have ended, the last are kept.
    module ContextPath
      KEPT = 1000
      private_constant :KEPT

      def start_span(name, kind: :internal, parent: :auto)
        return super if ::RAAF::Tracing::TraceProvider.instance.disabled

        parent = parent == :auto ? Parents.ambient : Parents.given(parent)
        trace_id = ::RAAF::Tracing::Context.current_trace&.trace_id
        # A trace that was begun by name has an ID of its own, maybe in capitals.
        parent = nil if trace_id && parent && !Live.trace_id(parent).casecmp?(trace_id.to_s)
        span = TracerSpan.span_class.new(self, name.to_s, kind, parent, parent ? nil : trace_id)
        keep(span)
        return span unless block_given?

        begin
          yield span
        ensure
          finish_span(span)
        end
      end

      def finish_span(span = nil)
        span ||= current_span
        span&.finish
        span
      end

      def current_span
        live = Stack.note(self)
        live || super
      end

      def trace_id = @spans.last&.trace_id

      def trace_summary
        @trace_id = trace_id
        super
      end

      private

      def keep(span)
        @spans << span
        configuration = ::RAAF::Tracing.configuration
        most = configuration.max_spans_in_memory if configuration.respond_to?(:max_spans_in_memory)
        @spans.shift while @spans.size > (most || KEPT)
      end
    end

    # Goes before RAAF::Tracing::SpanTracer: its processors are told without copies of their list, and ours not at all.
    module TracerPath
      private

      def notify_processors(method, span)
        return super unless Live === span

        Others.notify(@processors, method, span)
        Others.notify(@provider.processors, method, span) if @provider.respond_to?(:processors)
      end
    end
    private_constant :TracerSpan, :ContextPath, :TracerPath
  end
end
