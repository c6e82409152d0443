# frozen_string_literal: true

module Spanring
  module RAAF
    # Whose child a span is: a Live, a Span or a Context, or nil for nobody's.
    module Parents
      HEX = /\Atrace_(\h{32})\z/
      SPAN_HEX = /\Aspan_(\h{16})(\h{8}|\h{16})\z/
      private_constant :HEX, :SPAN_HEX

      class << self
        # In RAAF's order: the component that was given (or is the component's parent), the agent for which tools run, the job. Where RAAF
        # would have nothing, it is what is current.
        def of(component)
          case component
          when nil
            given(Thread.current[:original_agent_span]) || open(Thread.current[:current_agent]) || job || ambient
          when Hash then given(component) || ambient
          else open(component) || job || ambient
          end
        end

        # What is current in this fiber; in one that has nothing yet, what was current where it was made, if that goes on (since Ruby 3.2).
        def ambient = Stack.ambient

        # Of a span in one of the forms in which RAAF hands them on.
        def given(span)
          case span
          when nil, Live, Span, Context then span
          when SpanData then span.live
          when Hash then from_ids(span[:trace_id] || span["trace_id"], span[:span_id] || span["span_id"])
          else from_ids(span.trace_id, span.span_id) if span.respond_to?(:trace_id) && span.respond_to?(:span_id)
          end
        end

        private

        def job = open(Thread.current[:raaf_job_span])

        # The open span of a component.
        def open(component)
          return nil if component.nil?

          live = Stack.note(component)
          return live if Live === live

          around(component) || (given(component.current_span) if component.respond_to?(:current_span))
        end

        # Its open span around this fiber.
        def around(component)
          live = Stack.outer
          live = live.outer until live.nil? || (live.component.equal?(component) && !live.finished?)
          live
        end

        def from_ids(trace_id, span_id)
          return nil unless (trace = HEX.match(trace_id.to_s)) && (span = SPAN_HEX.match(span_id.to_s))

          context = Spanring.extract("traceparent" => "00-#{trace[1].downcase}-#{span[1].downcase}-01")
          context unless context.span_id.match?(/\A0+\z/)
        end
      end
    end
    private_constant :Parents
  end
end
