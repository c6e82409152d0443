# frozen_string_literal: true

module Spanring
  module RAAF
    # What `current_span` of a component gives: a Hash as RAAF has it. What is changed in it counts.
    class SpanData < Hash
      attr_reader :live

      def initialize(live)
        super()
        @live = live
      end
    end

    # The span of a component.
    class ComponentSpan
      include Live

      attr_reader :component, :outer

      def initialize(component, name, kind, parent)
        @component = component
        begin_live(component, name, kind, parent)
        @outer = Parents.hand_on(self)
      end

      # RAAF's rule, whose names begin with run: with_tracing(:run) finds any.
      def serves?(kind, method)
        @kind == kind && (method.nil? || @name.include?(method.name))
      end

      def data
        @data ||= SpanData.new(self).merge!(
          span_id: span_id, trace_id: trace_id, parent_id: parent_id, name: @name, kind: @kind, start_time: start_time,
          attributes: @attributes, events: events, status: @status
        )
      end
      alias to_h data

      def complete
        stop
        @attributes["success"] = true
        close
      end

      def fail(error)
        stop
        @attributes["success"] = false
        @attributes["error.type"] = error.class.name
        @attributes["error.message"] = error.message
        @attributes["error.backtrace"] = error.backtrace&.first(5)&.join("\n")
        @status = :error
        @data[:status] = :error if @data
        @engine.record_exception(error)
        close
      end

      # The end of a span that was left otherwise.
      def leave
        Parents.take_back(@outer)
        return if @is_closed

        stop
        @status = nil
        close
      end

      private

      def stop
        @took = Live.now - @began
        @attributes["duration_ms"] = @took.round(2)
      end

      def close
        @is_closed = true
        read_data if @data
        end_live
      end

      # What the host changed meanwhile, and what RAAF would have put there by now.
      def read_data
        @data[:end_time] = end_time
        @attributes = @data[:attributes] if @data[:attributes].is_a?(Hash)
        @status = @data[:status] unless @status.nil?
        @engine.rename(@name = @data[:name].to_s) unless @name.equal?(@data[:name])
        return unless @data[:events].is_a?(Array)

        @events = @data[:events]
        @events.each do |event|
          at = Times.nanos(event[:timestamp]) || Times.now
          @engine.event_at(at, event[:name].to_s, event[:attributes] || {})
        end
      end
    end

    # What all spans of a class have in common, found once.
    class Shape
      # So many names a class: methods may be called anything.
      NAMES = 256
      IVAR = :@__spanring_shape__
      private_constant :NAMES, :IVAR

      class << self
        def of(component)
          owner = component.class
          owner.instance_variable_get(IVAR) || owner.instance_variable_set(IVAR, new(owner))
        end

        def forget(owner)
          owner.remove_instance_variable(IVAR) if owner.instance_variable_defined?(IVAR)
        end
      end

      attr_reader :kind

      def initialize(owner)
        @kind = owner.trace_component_type
        @owner_name = owner.name
        @names = {}
        @plain = { "component.type" => @kind.to_s, "component.name" => @owner_name }.freeze
      end

      # The kind and the name of a span: tools and calls of models that an agent makes are called after themselves.
      def name(component, method, metadata)
        if method == :execute_tool && metadata[:tool_name]
          [:tool, build(component, :tool, metadata[:tool_name], method)]
        elsif method == :llm_call
          called = metadata[:streaming] ? "streaming" : metadata[:tool_calls] ? "tool_call" : "completion"
          [:llm, build(component, :llm, called, called)]
        elsif metadata[:agent_name] || ::RAAF::Tracing.span_naming_config
          [@kind, build(component, @kind, metadata[:agent_name] || @owner_name, method)]
        else
          @names[method] || remember(method, [@kind, -build(component, @kind, @owner_name, method)].freeze)
        end
      end

      # The collector that RAAF has for the class; nil for one that says nothing but the class and the kind.
      def collector(component)
        return @collector if @collectors.equal?(::RAAF::Tracing::SpanCollectors)

        found = ::RAAF::Tracing::SpanCollectors.collector_for(component).class
        @collectors = ::RAAF::Tracing::SpanCollectors
        @collector = found unless plain?(found)
      end

      def plain = @plain.dup

      private

      def build(component, kind, called, method) = component.send(:build_span_name, kind, called, method)

      def remember(method, name)
        @names[method] = name if @names.size < NAMES
        name
      end

      def plain?(collector)
        collector.name == "RAAF::Tracing::SpanCollectors::BaseCollector" &&
          %i[@span_attrs @span_custom @result_custom].all? { |ivar| (collector.instance_variable_get(ivar) || []).empty? }
      end
    end
    private_constant :Shape

    # Goes before RAAF::Tracing::Traceable.
    module TraceablePath
      # RAAF's own way while tracing is disabled.
      def with_tracing(method_name = nil, parent_component: nil, **metadata)
        return super if ::RAAF::Tracing::TraceProvider.instance.disabled

        method_name = method_name.to_sym if method_name.is_a?(String)
        shape = Shape.of(self)
        live = Stack.note(self)
        if live && live.serves?(shape.kind, method_name)
          live.attributes.merge!(metadata)
          return yield
        end

        kind, name = shape.name(self, method_name, metadata)
        live = ComponentSpan.new(self, name, kind, Parents.of(parent_component || @parent_component))
        begin
          attributes = live.attributes
          attributes.merge!(collect_span_attributes)
          attributes.merge!(metadata) unless metadata.empty?
          result = yield
          attributes.merge!(collect_result_attributes(result))
          live.complete
        rescue StandardError => error
          live.fail(error)
          Others.tell(get_tracer_for_span_sending, live)
          Others.flush
          raise
        ensure
          live.leave
        end
        Others.tell(get_tracer_for_span_sending, live)
        result
      end

      # RAAF's, but its collector is found once a class.
      def collect_span_attributes
        shape = Shape.of(self)
        collector = shape.collector(self)
        collector ? collector.new.collect_attributes(self) : shape.plain
      rescue StandardError
        super
      end

      def collect_result_attributes(result)
        collector = Shape.of(self).collector(self)
        return collector.new.collect_result(self, result) if collector

        { "result.type" => result.class.name, "result.success" => !result.nil? }
      rescue StandardError
        super
      end

      def current_span
        live = Stack.note(self)
        live ? live.data : super
      end

      def traced?
        Stack.note(self) ? true : super
      end

      def trace_id
        live = Stack.note(self)
        live ? live.trace_id : super
      end

      # A class that says anew what it is.
      module ClassMethods
        def trace_as(...)
          super.tap { Shape.forget(self) }
        end
      end
    end
    private_constant :TraceablePath
  end
end
