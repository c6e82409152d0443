# frozen_string_literal: true

require_relative "raaf/conventions"

module Spanring
  # Spans of a program's own classes: what a class is is said once, what its spans say in two methods.
  #
  #     class Support
  #       include Spanring::Traceable
  #       trace_as :agent
  #
  #       def run(question)
  #         with_tracing(:run, "input.value" => question) { |span| ... }
  #       end
  #
  #       def collect_span_attributes = { "gen_ai.request.model" => @model }
  #       def collect_result_attributes(answer) = { "output.value" => answer }
  #     end
  #
  # A span is called run.workflow.agent.Support, and run.workflow.agent.Support.METHOD for other methods than run. Its kind is told in the terms
  # of OpenTelemetry's GenAI conventions and of OpenInference.
  module Traceable
    # So many names a class: beyond, they are made anew each time.
    NAMES = 256
    private_constant :NAMES

    def self.included(base)
      super
      base.extend(ClassMethods)
    end

    module ClassMethods
      # What the class is: :agent, :llm, :tool, :guardrail, :handoff, :pipeline, or whatever else; its subclasses are the same. `name` is
      # what it is called, which is otherwise its class's name.
      def trace_as(kind, name: nil)
        @trace_kind = kind.to_sym
        @trace_name = name&.to_s
        @trace_shapes = nil
      end

      # What was said by trace_as, here or in a superclass; without that, what the class's name ends with.
      def trace_kind
        declared_trace(:@trace_kind) || name.to_s[/(Agent|Tool|Pipeline|Runner|Job|Guardrail)\z/]&.downcase&.to_sym || :component
      end

      # Its spans' name and what all of them have as attributes.
      def trace_shape(method)
        @trace_shapes&.[](method) || make_trace_shape(method)
      end

      protected

      def declared_trace(variable)
        instance_variable_get(variable) || (superclass.declared_trace(variable) if superclass.is_a?(ClassMethods))
      end

      private

      def make_trace_shape(method)
        kind = trace_kind
        called = declared_trace(:@trace_name) || name
        text = +"run.workflow.#{kind}"
        text << ".#{called}" if called
        text << ".#{method}" if method && !%W[run #{called}].include?(method.to_s)
        shape = [-text, trace_attributes(kind, called)].freeze
        @trace_shapes ||= {}
        @trace_shapes[method] = shape if @trace_shapes.size < NAMES
        shape
      end

      def trace_attributes(kind, called)
        found = RAAF::Conventions.kind(kind).names.except("raaf.kind")
        found["gen_ai.#{kind}.name"] = called if called && %i[agent tool].include?(kind)
        found.freeze
      end
    end

    # Runs the block in a span, and gives the block's value. Keywords are attributes, but for tracing_level, which is the span's level and comes
    # before the object's own.
    #
    # If this object's innermost span in this fiber is one of the same method, or no method is given, that span goes on and gets the
    # attributes. However the block is left, a span of its own ends; an error is recorded, and goes on.
    def with_tracing(method = nil, tracing_level: self.tracing_level, **attributes)
      method = method.to_sym if method.is_a?(String)
      if (span = Stack.reusable(self, method))
        span.set(attributes) unless attributes.empty?
        return yield(span)
      end

      name, always = self.class.trace_shape(method)
      Stack.span(self, method, name, always, attributes, tracing_level) do |own|
        next yield(own) unless own.recording?

        begin
          (said = collect_span_attributes) && own.set(said)
        rescue StandardError => error
          own.record_exception(error)
        end
        result = yield(own)
        begin
          (said = collect_result_attributes(result)) && own.set(said)
        rescue StandardError => error
          own.record_exception(error)
        end
        result
      end
    end

    # At what level this object's spans are traced: :none, :minimal, :smart, :full, or nil for what the settings say.
    def tracing_level; end

    # What each span says soon after its start: a Hash, or nil. Asked only if the span records; an error in it is an event of the span.
    def collect_span_attributes; end

    # What a span says of the block's value: a Hash, or nil. Not asked if the block was left otherwise.
    def collect_result_attributes(_result); end

    # Runs the block, which gets the current span, only if that records: for attributes that cost something. Gives its value, or nil.
    def trace_if_sampled
      span = Spanring.current_span
      yield(span) if span&.recording?
    end
  end
end
