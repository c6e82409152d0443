# frozen_string_literal: true

# A small RAAF: what hosts see of its tracing, for tests of Spanring::RAAF.install!. It does what RAAF does, with less: its ways to find a
# parent and a tracer are there, its collectors, its OpenAI processor and Rails are not.
require "ostruct"
require "securerandom"
require "time"

module RAAF
  module Tracing
    VERSION = "stand-in"

    class << self
      attr_accessor :configuration, :span_naming_config

      def configure
        self.configuration ||= OpenStruct.new
        yield configuration
      end

      def add_trace_processor(processor) = TraceProvider.instance.add_processor(processor)
      def set_trace_processors(*processors) = TraceProvider.instance.set_processors(*processors)
      def tracer = TraceProvider.instance.tracer
      def disabled? = TraceProvider.instance.disabled
      def disable! = TraceProvider.instance.disable!
      def enable! = TraceProvider.instance.enable!
      def force_flush = TraceProvider.force_flush
      def shutdown = TraceProvider.instance.shutdown
      def trace(name, **options, &block) = Trace.create(name, **options, &block)
    end

    class TraceProvider
      class << self
        attr_writer :instance

        def instance = @instance ||= new
        def force_flush = instance.force_flush
      end

      attr_reader :processors, :disabled

      def initialize
        @processors = []
        @disabled = ENV["RAAF_DISABLE_TRACING"] == "true"
      end

      def tracer(name = "default")
        return NoOpTracer.new if @disabled

        (@tracers ||= {})[name] ||= SpanTracer.new(self)
      end

      def add_processor(processor)
        @processors << processor unless @disabled
      end

      def set_processors(*processors)
        each_that(:shutdown, &:shutdown)
        @processors = processors
      end

      def force_flush = each_that(:force_flush, &:force_flush)
      def shutdown = each_that(:shutdown, &:shutdown)
      def disable! = @disabled = true
      def enable! = @disabled = false

      private

      def each_that(method, &block) = @processors.select { |processor| processor.respond_to?(method) }.each(&block)
    end

    class NoOpTracer
      def processors = []
      def force_flush = nil
      def span(_name, **) = block_given? ? yield(self) : self
      def set_attribute(_key, _value) = self
    end

    class TracingRegistry
      def self.current_tracer = Thread.current[:raaf_tracer] || NoOpTracer.new
    end

    class Span
      attr_reader :span_id, :trace_id, :parent_id, :name, :kind, :start_time, :end_time, :attributes, :events, :status

      def initialize(name:, trace_id: nil, parent_id: nil, kind: :internal)
        @span_id = "span_#{SecureRandom.hex(16)}"
        @trace_id = trace_id || "trace_#{SecureRandom.hex(16)}"
        @name, @parent_id, @kind = name, parent_id, kind
        @start_time = Time.now.utc
        @attributes, @events, @status = {}, [], :ok
      end

      def set_attribute(key, value)
        @attributes[key.to_s] = value
        self
      end

      def attributes=(all)
        all.each { |key, value| set_attribute(key, value) }
      end

      def add_event(name, attributes: {}, timestamp: nil)
        @events << { name: name, timestamp: timestamp || Time.now.utc.iso8601, attributes: attributes }
        self
      end

      def set_status(status, description: nil)
        @status = status
        @attributes["status.description"] = description if description
        self
      end

      def finish(end_time: nil)
        @end_time ||= end_time || Time.now.utc
        self
      end

      def finished? = !@end_time.nil?
      def duration = @end_time && @end_time - @start_time
    end

    class SpanContext
      attr_reader :trace_id

      def initialize
        @span_stack, @spans = [], []
      end

      def start_span(name, kind: :internal, parent: :auto)
        parent = current_span if parent == :auto
        @trace_id = Context.current_trace&.trace_id || parent&.trace_id
        @span_stack.push(Span.new(name: name, trace_id: @trace_id, parent_id: parent&.span_id, kind: kind))
        @spans << current_span
        current_span
      end

      def finish_span(span = nil) = (span || @span_stack.pop)&.finish
      def current_span = @span_stack.last
      def all_spans = @spans.dup
    end

    class SpanTracer
      attr_reader :context, :processors

      def initialize(provider = nil)
        @context, @processors, @provider = SpanContext.new, [], provider
      end

      def add_processor(processor) = @processors << processor
      def current_span = @context.current_span
      def set_attribute(key, value) = current_span&.set_attribute(key, value)
      def span(name, type: nil, **attributes, &block) = start_span(name, kind: type || :internal, **attributes, &block)
      def tool_span(name, **attributes, &block) = start_span("tool.#{name}", kind: :tool, "tool.name" => name, **attributes, &block)

      def start_span(name, kind: :internal, parent: :auto, **attributes)
        span = @context.start_span(name, kind: kind, parent: parent)
        span.attributes = attributes
        notify_processors(:on_span_start, span)
        return span unless block_given?

        begin
          yield(span).tap { span.set_status(:ok) }
        rescue StandardError => error
          span.set_status(:error, description: error.message)
          span.add_event("exception", attributes: { "exception.type" => error.class.name, "exception.message" => error.message })
          raise
        ensure
          finish_span(span)
        end
      end

      def finish_span(span = nil)
        span = @context.finish_span(span)
        notify_processors(:on_span_end, span) if span
        span
      end

      private

      def notify_processors(method, span)
        (@processors + (@provider&.processors || [])).each do |processor|
          processor.public_send(method, span) if processor.respond_to?(method)
        end
      end
    end

    class Context
      class << self
        def current_trace = Thread.current[:stand_in_trace]
        def current_trace=(trace)
          Thread.current[:stand_in_trace] = trace
        end
      end
    end

    class Trace
      attr_reader :trace_id, :workflow_name

      def self.create(name, **options)
        trace = new(name, **options).start
        yield trace
      ensure
        trace.finish
      end

      def initialize(name, trace_id: nil, group_id: nil, metadata: {})
        @workflow_name, @group_id, @metadata = name, group_id, metadata
        @trace_id = trace_id || "trace_#{SecureRandom.hex(16)}"
      end

      def start
        @before = Context.current_trace
        Context.current_trace = self
        @tracer = TraceProvider.instance.tracer
        @root = @tracer.start_span("trace.#{@workflow_name}", kind: :trace, "trace.workflow_name" => @workflow_name,
                                                              "trace.group_id" => @group_id, "trace.metadata" => @metadata)
        self
      end

      def finish
        @tracer.finish_span(@root)
        Context.current_trace = @before
      end
    end

    module SpanCollectors
      class BaseCollector
        def collect_attributes(component)
          { "component.type" => component.class.trace_component_type.to_s, "component.name" => component.class.name }
        end

        def collect_result(_component, result) = { "result.type" => result.class.name, "result.success" => !result.nil? }
      end

      class ToolCollector < BaseCollector
        def collect_attributes(component) = super.merge("tool.name" => component.class.name)
        def collect_result(component, result) = super.merge("result.tool_result" => result)
      end

      def self.collector_for(component) = (component.class.name.to_s.end_with?("Tool") ? ToolCollector : BaseCollector).new
    end

    module Traceable
      def self.included(base) = base.extend(ClassMethods)

      module ClassMethods
        def trace_as(component_type)
          @component_type = component_type
        end

        def trace_component_type
          @component_type || (superclass.trace_component_type if superclass.respond_to?(:trace_component_type)) ||
            name.to_s[/(Agent|Tool|Pipeline|Job)\z/]&.downcase&.to_sym || :component
        end
      end

      def with_tracing(method_name = nil, parent_component: nil, **metadata, &block)
        open = current_span
        if open && open[:kind] == self.class.trace_component_type && (method_name.nil? || open[:name].include?(method_name.to_s))
          open[:attributes].merge!(metadata)
          return block.call
        end

        span = begin_span(method_name, parent_component, metadata)
        (stacks[Fiber.current] ||= []).push(span)
        begin
          span[:attributes].merge!(collect_span_attributes, metadata)
          result = block.call
          span[:attributes].merge!(collect_result_attributes(result))
          end_span(span, "success" => true)
          result
        rescue StandardError => error
          span[:status] = :error
          end_span(span, "success" => false, "error.type" => error.class.name, "error.message" => error.message)
          TraceProvider.force_flush
          raise
        ensure
          stacks[Fiber.current].pop
        end
      end

      def collect_span_attributes = SpanCollectors.collector_for(self).collect_attributes(self)
      def collect_result_attributes(result) = SpanCollectors.collector_for(self).collect_result(self, result)
      def current_span = stacks[Fiber.current]&.last
      def traced? = !current_span.nil?
      def trace_id = current_span&.fetch(:trace_id)

      private

      def stacks = @stacks ||= {}.compare_by_identity

      def begin_span(method, parent, metadata)
        kind, called = self.class.trace_component_type, metadata[:agent_name] || self.class.name
        kind, called = :tool, metadata[:tool_name] if method == :execute_tool && metadata[:tool_name]
        kind, called, method = :llm, "completion", "completion" if method == :llm_call
        parent ||= @parent_component
        parent = parent.current_span if parent.respond_to?(:current_span)
        parent ||= Thread.current[:original_agent_span]
        {
          span_id: "span_#{SecureRandom.hex(16)}", trace_id: parent&.fetch(:trace_id) || "trace_#{SecureRandom.hex(16)}",
          parent_id: parent&.fetch(:span_id), name: build_span_name(kind, called, method), kind: kind, start_time: Time.now.utc,
          attributes: {}, events: [], status: :ok
        }
      end

      def end_span(span, attributes)
        span[:end_time] = Time.now.utc
        span[:attributes].merge!(attributes, "duration_ms" => ((span[:end_time] - span[:start_time]) * 1000).round(2))
        ended = OpenStruct.new(span)
        get_tracer_for_span_sending&.processors&.each do |processor|
          processor.on_span_end(ended) if processor.respond_to?(:on_span_end)
        end
      end

      def get_tracer_for_span_sending
        return @tracer if @tracer

        provider = TraceProvider.instance
        provider.processors.any? ? provider : nil
      end

      def build_span_name(component_type, component_name, method_name)
        config = Tracing.span_naming_config
        return config.build_name(component_type, component_name, method_name) if config

        last = method_name unless [nil, "run", component_name].include?(method_name&.to_s)
        ["run.workflow", component_type, component_name, last].compact.join(".")
      end
    end

    module ToolIntegration
      def self.with_agent_context(agent, span = nil)
        before = %i[current_agent original_agent_span].to_h { |name| [name, Thread.current[name]] }
        Thread.current[:current_agent] = agent
        Thread.current[:original_agent_span] = span || agent.current_span
        yield
      ensure
        before.each { |name, value| Thread.current[name] = value }
      end
    end
  end

  def self.tracer = Tracing.tracer
end
