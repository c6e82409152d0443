# frozen_string_literal: true

# What tracing costs a piece of work.
module Spanring
  # What `overhead` found; milliseconds. `overhead` is how much longer a traced run took than the untraced one beside it, in the median, and
  # `noise` how far the middle half of these differences lies around it: an overhead that is not larger is not to be told from chance.
  Overhead = Struct.new(:rounds, :baseline, :traced, :overhead, :noise) do
    # The overhead as a part of the baseline.
    def percent
      baseline.zero? ? 0.0 : overhead / baseline * 100
    end

    # Whether the overhead is larger than the noise.
    def measurable?
      overhead.abs > noise
    end

    def to_s
      text = format("untraced %.3f ms, traced %.3f ms: %+.3f ms (%+.2f %%), noise \u00b1%.3f ms, %d rounds",
                    baseline, traced, overhead, percent, noise, rounds)
      measurable? ? text : "#{text}; not to be told from chance"
    end
  end

  class << self
    # Runs the block untraced and traced in turn, `rounds` times each after one of each that does not count, and says what tracing costs it.
    # Untraced means that the calling thread's spans are not made; those of other threads are, also of those that the block starts.
    def overhead(rounds: 20, &work)
      raise ArgumentError, "overhead needs a block" unless work

      pairs = (0..[rounds, 1].max).map do |number|
        order = number.even? && number.positive? ? [true, false] : [false, true]
        order.to_h { |traced| [traced, timed(traced, work)] }.values_at(false, true)
      end.drop(1)
      differences = pairs.map { |baseline, traced| traced - baseline }
      noise = (at(differences, 0.75) - at(differences, 0.25)) / 2
      Overhead.new(pairs.size, at(pairs.map(&:first), 0.5), at(pairs.map(&:last), 0.5), at(differences, 0.5), noise)
    end

    private

    def at(numbers, part)
      numbers.sort[((numbers.size - 1) * part).round]
    end

    def timed(traced, work)
      _pause(!traced)
      begin
        start = Process.clock_gettime(Process::CLOCK_MONOTONIC)
        work.call
        (Process.clock_gettime(Process::CLOCK_MONOTONIC) - start) * 1e3
      ensure
        _pause(false)
      end
    end
  end
end
