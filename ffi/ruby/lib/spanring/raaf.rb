# frozen_string_literal: true

# For RAAF: `Spanring::RAAF.install!`, or `RAAF::Tracing.add_trace_processor(Spanring::RAAF::Processor.new)`.
require_relative "../spanring"
require_relative "raaf/conventions"
require_relative "raaf/times"
require_relative "raaf/processor"
require_relative "raaf/background"
require_relative "raaf/install"
