# frozen_string_literal: true

# Contexts: carried to other threads and fibers, from headers and into them (W3C trace context).
module Spanring
  class Span
    alias finish end

    # Its context, which may be kept longer than the span.
    def context
      Spanring.send(:_context, self)
    end
  end

  class << self
    # The context that is current, for another thread or fiber to attach. Without one, what is attached there makes roots.
    def context
      _context(nil)
    end

    # Makes a parent current in the block, and gives the block's value: a Span (which it does not end), a Context, a request's headers, or nil
    # for none.
    def attach(what, &block)
      raise ArgumentError, "attach takes a block" unless block

      case what
      when nil, Span, Context then _attach(what, &block)
      else _attach(extract(what), &block)
      end
    end

    # The context that a request's headers carry: to attach, as a parent, or for a link.
    #
    # `headers` is a Hash, Rack's environment, or pairs. Without a usable traceparent, spans below it are roots.
    def extract(headers)
      parents, states = header_values(headers)
      # Two of them: somebody is wrong, and who is cannot be known.
      parent = parents.size == 1 ? parents.first : ""
      _extract(parent, parent.empty? ? "" : states.map(&:b).join(","))
    end

    # Writes traceparent and tracestate of the current span (or of `span`) into a Hash, and returns it.
    def inject(headers = {}, span = nil)
      unless span.nil? || span.is_a?(Span) || span.is_a?(Context)
        raise TypeError, "inject takes a Spanring::Span or a Spanring::Context, not #{span.class}"
      end

      parent, state = _inject(span)
      if parent
        headers["traceparent"] = parent
        headers["tracestate"] = state unless state.empty?
      end
      headers
    end

    private

    def header_values(headers)
      raise TypeError, "headers must be a Hash or pairs, not #{headers.class}" if headers.is_a?(String) || !headers.respond_to?(:each)

      found = { "traceparent" => [], "tracestate" => [] }
      headers.each do |name, value|
        next unless name.is_a?(String) || name.is_a?(Symbol)

        # In bytes: it need not be text.
        values = found[name.to_s.b.downcase.delete_prefix("http_")]
        values&.concat(Array(value).grep(String)) if value.is_a?(String) || value.is_a?(Array)
      end
      found.values
    end
  end

  private_class_method :_context, :_attach, :_extract, :_inject
end
