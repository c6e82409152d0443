# frozen_string_literal: true

# A span engine that lives inside a program.
#
#     require "spanring"
#
#     Spanring.start(service_name: "shop", dir: "spans")
#     Spanring.span("db.query", rows: 7) { |span| span.event("cached") }
module Spanring
  # What the engine could not do: `code` is one of SPANRING_ERROR_... in spanring.h, the message says why.
  class Error < StandardError
    attr_reader :code

    def initialize(text = nil, code = 0)
      super(text)
      @code = code
    end
  end
end

require_relative "spanring/spanring"
require_relative "spanring/pipeline"
require_relative "spanring/overhead"
require_relative "spanring/subscription"
require_relative "spanring/propagation"
require_relative "spanring/logs"
require_relative "spanring/traceable"
require_relative "spanring/processes"
