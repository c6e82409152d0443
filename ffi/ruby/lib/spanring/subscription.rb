# frozen_string_literal: true

module Spanring
  # Finished spans, each a Hash as docs/processors.md has it, in the order in which batches were sealed.
  class Subscription
    include Enumerable

    NOT_OPEN = 7
    SHUT_DOWN = 10
    FORKED = 18
    # How long is waited at once, so that Ruby's interrupts are served, in nanoseconds.
    TURN = 100_000_000
    private_constant :NOT_OPEN, :SHUT_DOWN, :FORKED, :TURN

    def initialize(max_spans)
      @number = Spanring.send(:_subscription_open, max_spans)
      # Lines that a thread had taken when something stopped it: a timeout, say.
      @taken = []
    end

    # The next span: at most so many seconds are waited for it, nil for as long as it takes. nil if none came, or none will. Other threads
    # run meanwhile. What stops this thread while it waits, such as Timeout, loses none.
    def next(timeout = nil)
      wait(timeout) { return nil }
    end

    # Yields each span as it comes, until the pipeline ends, it is closed, or in a fork child.
    def each
      return enum_for(:each) unless block_given?

      # Not `loop`, which takes a StopIteration of the block for its end.
      yield wait(nil) { return self } while true
    end

    # How many spans were dropped because nobody took those before them.
    def dropped
      @number ? Spanring.send(:_subscription_dropped, @number) : 0
    end

    # Ends it; what waits is given up. Calling it again is fine.
    def close
      number = @number
      @number = nil
      Spanring.send(:_subscription_close, number) if number
      nil
    rescue Error => error
      raise unless [NOT_OPEN, FORKED].include?(error.code)
    end

    private

    # Yields if no span will come.
    def wait(timeout)
      finish = timeout && Process.clock_gettime(Process::CLOCK_MONOTONIC) + timeout
      while @number
        left = finish ? ((finish - Process.clock_gettime(Process::CLOCK_MONOTONIC)) * 1e9).to_i : TURN
        line = @taken.shift || Spanring.send(:_subscription_next, @number, left.clamp(0, TURN), @taken)
        return JSON.parse(line, max_nesting: false) if line
        return nil if finish && left <= TURN
      end
      yield
    rescue Error => error
      raise unless [NOT_OPEN, SHUT_DOWN, FORKED].include?(error.code)

      yield
    end
  end

  class << self
    # Finished spans from now on; see Subscription. About `max_spans` wait to be taken; of more, whole batches are dropped and counted. With a
    # block, it is given the subscription, which is closed afterwards.
    def subscribe(max_spans: 10_000)
      subscription = Subscription.new(max_spans)
      return subscription unless block_given?

      begin
        yield subscription
      ensure
        subscription.close
      end
    end

    private :_subscription_open, :_subscription_next, :_subscription_dropped, :_subscription_close
  end
end
