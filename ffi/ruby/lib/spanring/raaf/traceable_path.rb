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

      def initialize(component, kind, name, parent)
        @component = component
        begin_live(component, kind, name, parent)
        @outer = Parents.hand_on(self)
      end

      # RAAF's rule, whose names begin with run: with_tracing(:run) finds any.
      def serves?(kind, method)
        @kind == kind && (method.nil? || @name.include?(method.name))
      end

      # What the class and the call say.
      def say(own, metadata)
        return attributes.merge!(own, metadata) if @attributes

        @own = own.dup
        @metadata = metadata
      end

      # In one Hash only if somebody asks.
      def attributes
        @attributes ||= begin
          all = {}
          [@own, @metadata, @found].each { |part| all.merge!(part) if part }
          @found ? all.merge!("duration_ms" => @took.round(2), "success" => true) : all
        end
      end

      def data
        @data ||= SpanData.new(self).merge!(
          span_id: span_id, trace_id: trace_id, parent_id: parent_id, name: @name, kind: @kind, start_time: start_time,
          attributes: attributes, events: events, status: @status
        )
      end
      alias to_h data

      def complete(found)
        if @attributes.nil? && Live.content && (@took = Stack.succeed(@engine, @always, @own, @metadata, found))
          @found = found
          return @is_closed = true
        end
        attributes.merge!(found)
        stop
        attributes["success"] = true
        close
      end

      def fail(error)
        stop
        attributes.merge!(
          "success" => false, "error.type" => error.class.name, "error.message" => error.message,
          "error.backtrace" => error.backtrace&.first(5)&.join("\n")
        )
        @status = :error
        @data[:status] = :error if @data
        @engine.record_exception(error)
        close
      end

      # The end of the block, however it came.
      def leave
        Parents.take_back(@outer)
        return if @is_closed

        stop
        @status = nil
        close
      end

      private

      def stop
        @took = Stack.age(@engine)
        attributes["duration_ms"] = @took.round(2)
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
      private_constant :NAMES

      attr_reader :kind

      def initialize(owner)
        @kind = owner.trace_component_type
        @called = owner.name
        @names = {}
        @plain = { "component.type" => @kind.to_s, "component.name" => @called }.freeze
        @is_usual = owner.instance_method(:get_tracer_for_span_sending).owner == ::RAAF::Tracing::Traceable
      end

      # Whether it is RAAF's own rule where a span goes.
      def usual? = @is_usual

      # The kind and the name of a span: tools and calls of models that an agent makes are called after themselves.
      def name(component, method, metadata)
        unless metadata.empty?
          if method == :execute_tool && (tool = metadata[:tool_name])
            return [:tool, build(component, :tool, tool, method)]
          elsif (agent = metadata[:agent_name]) && method != :llm_call
            return [@kind, build(component, @kind, agent, method)]
          end
        end
        if method == :llm_call
          called = metadata[:streaming] ? "streaming" : metadata[:tool_calls] ? "tool_call" : "completion"
          return [:llm, build(component, :llm, called, called)]
        end
        return [@kind, build(component, @kind, @called, method)] if ::RAAF::Tracing.span_naming_config

        @names[method] || remember(method, [@kind, -build(component, @kind, @called, method)].freeze)
      end

      # The collector that RAAF has for the class; nil for one that says nothing but the class and the kind.
      def collector(component)
        return @collector if @collectors.equal?(::RAAF::Tracing::SpanCollectors)

        found = ::RAAF::Tracing::SpanCollectors.collector_for(component).class
        @collector = plain?(found) ? nil : found
        @collectors = ::RAAF::Tracing::SpanCollectors
        @collector
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
        provider = ::RAAF::Tracing::TraceProvider.instance
        return super if provider.disabled

        method_name = method_name.to_sym if method_name.is_a?(String)
        shape = self.class.spanring_shape
        live = Stack.note(self)
        if live && live.serves?(shape.kind, method_name)
          live.attributes.merge!(metadata)
          return yield
        end

        kind, name = shape.name(self, method_name, metadata)
        parent_component ||= @parent_component
        parent = parent_component || Stack.told? ? Parents.of(parent_component) : Parents.ambient
        live = ComponentSpan.new(self, kind, name, parent)
        begin
          live.say(collect_span_attributes, metadata)
          result = yield
          live.complete(collect_result_attributes(result))
        rescue StandardError => error
          live.fail(error)
          Others.notify(get_tracer_for_span_sending&.processors, :on_span_end, live)
          # As RAAF does, but without a tenth of a second of sleep.
          ::RAAF::Tracing::TraceProvider.force_flush
          raise
        ensure
          live.leave
        end
        # The usual answer of get_tracer_for_span_sending, at a tenth of its time.
        processors = provider.processors if @tracer.nil? && @parent_component.nil? && shape.usual?
        processors = get_tracer_for_span_sending&.processors if processors.nil? || processors.empty?
        Others.notify(processors, :on_span_end, live)
        result
      end

      # RAAF's, but its collector is found once a class.
      def collect_span_attributes
        shape = self.class.spanring_shape
        collector = shape.collector(self)
        collector ? collector.new.collect_attributes(self) : shape.plain
      rescue StandardError
        super
      end

      def collect_result_attributes(result)
        collector = self.class.spanring_shape.collector(self)
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

      # Goes before RAAF::Tracing::Traceable::ClassMethods.
      module ClassMethods
        def spanring_shape = @spanring_shape ||= Shape.new(self)

        # A class may say anew what it is.
        def trace_as(...)
          @spanring_shape = nil
          super
        end
      end
    end
    private_constant :TraceablePath
  end
end
