# frozen_string_literal: true

require "time"

module Spanring
  module RAAF
    # Times as RAAF has them, in nanoseconds since 1970.
    module Times
      SECOND = 1_000_000_000
      # 1970 itself is no time of a span, 2554 the last.
      LEAST = 1
      MOST = (1 << 64) - 1
      ZONE = /(?:[Zz]|UTC|GMT|[+-]\d\d:?\d\d)\s*\z/
      private_constant :LEAST, :MOST, :ZONE

      class << self
        def now = Process.clock_gettime(Process::CLOCK_REALTIME, :nanosecond)

        # Of a Time or what can become one, or of text in ISO 8601, which is UTC if it does not say; nil for everything else.
        def nanos(time)
          case time
          when nil then return nil
          when String
            time = parse(time)
            return nil unless time
          when Numeric then return nil
          else
            # ActiveSupport's are no Time, DateTime has no nsec.
            time = time.to_time unless time.respond_to?(:nsec)
          end
          (time.to_i * SECOND + time.nsec).clamp(LEAST, MOST)
        end

        # Whether it is text without fractions of a second.
        def whole_seconds?(time) = time.is_a?(String) && !time.include?(".")

        private

        def parse(text)
          text = "#{text}Z" unless text.match?(ZONE)
          Time.iso8601(text)
        rescue ArgumentError
          begin
            Time.parse(text)
          rescue ArgumentError
            nil
          end
        end
      end
    end
    private_constant :Times
  end
end
