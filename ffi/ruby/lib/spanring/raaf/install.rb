# frozen_string_literal: true

require_relative "live"
require_relative "parents"
require_relative "traceable_path"
require_relative "tracer_path"

module Spanring
  module RAAF
    # The other processors that are registered: they get spans as before. What goes wrong in one is said once, and holds up nobody.
    module Others
      class << self
        def notify(processors, method, live)
          processors&.each do |processor|
            next if Processor === processor || !processor.respond_to?(method)

            begin
              processor.public_send(method, live)
            rescue StandardError => error
              failed(processor, method, error)
            end
          end
        end

        def failed(processor, method, error)
          Spanring.send(:say_once, [:other, processor.class], <<~SAID.chomp)
            #{processor.class}##{method} failed (#{error.class}: #{error.message}); this is said once
          SAID
        end
      end
    end

    # Goes before Processor: spans that the engine has already are not handed to it once more.
    module OwnSpans
      private

      def take(span) = Live === span ? nil : super
    end

    # What install! relies on: the parameters of RAAF's methods, by class.
    KNOWN = {
      "Traceable" => {
        with_tracing: [%i[opt method_name], %i[key parent_component], %i[keyrest metadata], %i[block block]],
        collect_span_attributes: [], collect_result_attributes: [%i[req result]], current_span: [], traced?: [], trace_id: [],
        get_tracer_for_span_sending: [], build_span_name: [%i[req component_type], %i[req component_name], %i[req method_name]]
      },
      "Traceable::ClassMethods" => { trace_as: [%i[req component_type]], trace_component_type: [] },
      "Span" => {
        initialize: [%i[keyreq name], %i[key trace_id], %i[key parent_id], %i[key kind]], finish: [%i[key end_time]],
        add_event: [%i[req name], %i[key attributes], %i[key timestamp]], set_attribute: [%i[req key], %i[req value]],
        set_status: [%i[req status], %i[key description]]
      },
      "SpanContext" => {
        start_span: [%i[req name], %i[key kind], %i[key parent]], finish_span: [%i[opt span]], current_span: [], all_spans: [], trace_id: []
      },
      "SpanTracer" => {
        start_span: [%i[req name], %i[key kind], %i[key parent], %i[keyrest attributes]], finish_span: [%i[opt span]], processors: [],
        notify_processors: [%i[req method], %i[req span]]
      },
      "TraceProvider" => { processors: [], disabled: [], add_processor: [%i[req processor]] },
    }.freeze
    private_constant :Others, :OwnSpans, :KNOWN

    class << self
      # Has RAAF make its spans with the engine: those of Traceable and of its tracer. Names, kinds, attributes, `current_span` and the hooks
      # are as before, and so are other processors. Starts the pipeline unless it was started, with settings as `Processor.new` takes them, and
      # registers a Processor, which RAAF flushes and ends. A second call does nothing.
      #
      # Raises Spanring::Error if RAAF is not loaded, or is one whose methods are others.
      def install!(**settings)
        check
        return nil if @is_installed

        Live.content = register(settings)
        place
        @is_installed = true
        nil
      end

      def installed? = @is_installed ? true : false

      private

      def check
        unless defined?(::RAAF::Tracing::Traceable) && defined?(::RAAF::Tracing::TraceProvider)
          raise Error, "RAAF's tracing is not loaded: require \"raaf-tracing\" (or \"raaf\") before Spanring::RAAF.install!"
        end
        return if @is_installed

        wrong = KNOWN.flat_map do |name, methods|
          owner = name.split("::").inject(::RAAF::Tracing) { |place, part| place.const_get(part) if place&.const_defined?(part) }
          next [name] if owner.nil?

          methods.reject { |method, parameters| has?(owner, method, parameters) }.map { |method, _| "#{name}##{method}" }
        end
        wrong << "TraceProvider's variables" if wrong.empty? && !has_variables?(::RAAF::Tracing::TraceProvider)
        return if wrong.empty?

        version = defined?(::RAAF::Tracing::VERSION) ? " #{::RAAF::Tracing::VERSION}" : ""
        raise Error, "this RAAF#{version} is not as Spanring::RAAF.install! knows it: #{wrong.join(", ")} " \
                     "#{wrong.one? ? "is" : "are"} missing or take other arguments; use Spanring::RAAF::Processor, which needs none of it"
      end

      # Other names for parameters do no harm, more optional ones neither.
      def has?(owner, method, parameters)
        return false unless owner.method_defined?(method) || owner.private_method_defined?(method)

        found = owner.instance_method(method).parameters
        keys, others = parameters.partition { |type, _| %i[key keyreq].include?(type) }
        keys.all? { |_, name| found.any? { |type, given| given == name && %i[key keyreq].include?(type) } } &&
          found.count { |type, _| type == :req } == others.count { |type, _| type == :req }
      end

      # What the extension reads without a call.
      def has_variables?(owner)
        provider = owner.instance
        owner.instance_variable_get(:@instance).equal?(provider) &&
          %i[@disabled @processors].all? { |name| provider.instance_variable_defined?(name) }
      end

      # Says whether prompts are recorded: not if a processor that is there leaves them out.
      def register(settings)
        provider = ::RAAF::Tracing::TraceProvider.instance
        found = provider.processors.grep(Processor)
        unless found.any? && settings.empty?
          own = Processor.new(**settings)
          provider.add_processor(own) if found.empty?
        end
        [*found, own].compact.all?(&:content?)
      end

      def place
        tracing = ::RAAF::Tracing
        TracerSpan.span_class = Class.new(tracing::Span) { include TracerSpan }
        tracing.const_set(:SpanringSpan, TracerSpan.span_class) # so that it has a name
        Stack.install(tracing::TraceProvider, tracing, Processor, Others, Parents)
        Processor.prepend(OwnSpans)
        tracing::Traceable.prepend(TraceablePath)
        tracing::Traceable::ClassMethods.prepend(TraceablePath::ClassMethods)
        tracing::SpanContext.prepend(ContextPath)
        tracing::SpanTracer.prepend(TracerPath)
      end
    end
  end
end
