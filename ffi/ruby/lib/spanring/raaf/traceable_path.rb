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

    # The span of a component, made by `TraceablePath#with_tracing`, which is in the extension, as its fields are. Usually it is recorded
    # there from three Hashes that are never put together; what follows is for when somebody looks, or something fails.
    class ComponentSpan
      include Live

      def kind = entry[0]
      def name = @name || entry[1]
      # Nil of one whose block was left otherwise than with a value or an error.
      def status = @is_abandoned ? nil : @status || :ok

      # RAAF's rule, whose names begin with run: with_tracing(:run) finds any.
      def serves?(shape, method)
        kind == shape.kind && (method.nil? || name.include?(method.name))
      end

      # In one Hash only if somebody asks.
      def attributes
        return known_attributes if known_attributes

        all = {}
        [own, metadata, found].each { |part| all.merge!(part) if part }
        all.merge!("duration_ms" => took.round(2), "success" => true) if found
        self.known_attributes = all
      end

      def add(metadata)
        attributes.merge!(metadata)
      end

      # What the class says, when somebody has asked for the attributes already, or when it is no Hash.
      def say(own)
        attributes.merge!(own)
        attributes.merge!(metadata) if metadata
      end

      def data
        @data ||= SpanData.new(self).merge!(
          span_id: span_id, trace_id: trace_id, parent_id: parent_id, name: name, kind: kind, start_time: start_time,
          attributes: attributes, events: events, status: status
        )
      end
      alias to_h data

      # The end of what was left with a value, where the extension did not see to it.
      def complete(found)
        attributes.merge!(found)
        apart do
          quietly do
            stop
            attributes["success"] = true
          end
          @status = :ok
          close
        end
      end

      # The end with an error, in RAAF's order; other processors are told, and flushed.
      def failed(error)
        apart do
          @status = :error
          quietly do
            stop
            attributes.merge!("success" => false, "error.type" => error.class.name)
            attributes.merge!("error.message" => error.message, "error.backtrace" => error.backtrace&.first(5)&.join("\n"))
          end
          quietly do
            @data[:status] = :error if @data
            engine.record_exception(error)
          end
          close
        end
        Stack.tell(component.send(:get_tracer_for_span_sending)&.processors, self)
        # As RAAF does, but without a tenth of a second of sleep.
        ::RAAF::Tracing::TraceProvider.force_flush
      end

      # The end of a block that was left otherwise.
      def abandon
        apart do
          @is_abandoned = true
          quietly { stop }
          close
        end
      end

      private

      def stop
        self.took = Stack.age(engine)
        attributes["duration_ms"] = took.round(2)
      end

      def close
        quietly { read_data } if @data
        end_live
      end

      # What the host changed meanwhile, and what RAAF would have put there by now.
      def read_data
        @data[:end_time] = end_time
        self.known_attributes = @data[:attributes] if @data[:attributes].is_a?(Hash)
        @status &&= @data[:status]
        engine.rename(@name = @data[:name].to_s) unless name.equal?(@data[:name])
        return unless @data[:events].is_a?(Array)

        @events = @data[:events]
        @events.each { |event| quietly { record_event(event[:name], event[:timestamp], event[:attributes]) } }
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
        # Whether it is RAAF's own rule where a span goes.
        @is_usual = owner.instance_method(:get_tracer_for_span_sending).owner == ::RAAF::Tracing::Traceable
      end

      # The kind and the name of a span, its kind for the engine (nil for internal), what it always says, and what it says below a trace. Tools
      # and calls of models that an agent makes are called after themselves.
      def name(component, method, metadata)
        unless metadata.empty?
          if method == :execute_tool && (tool = metadata[:tool_name])
            return of(:tool, build(component, :tool, tool, method))
          elsif (agent = metadata[:agent_name]) && method != :llm_call
            return of(@kind, build(component, @kind, agent, method))
          end
        end
        if method == :llm_call
          called = metadata[:streaming] ? "streaming" : metadata[:tool_calls] ? "tool_call" : "completion"
          return of(:llm, build(component, :llm, called, called))
        end
        return of(@kind, build(component, @kind, @called, method)) if ::RAAF::Tracing.span_naming_config

        @names[method] || remember(method, of(@kind, -build(component, @kind, @called, method)))
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

      def of(kind, name)
        of, always, below_trace = Live.always(kind)
        [kind, name, (of.span_kind unless of.span_kind == :internal), always, below_trace].freeze
      end

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

    # Goes before RAAF::Tracing::Traceable. `with_tracing` is in the extension; while tracing is disabled, it is RAAF's own.
    module TraceablePath
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
