# frozen_string_literal: true

module Spanring
  module RAAF
    # Runs another processor of RAAF's (ActiveRecord's, say) on a thread of its own, so that what it does holds up no span:
    #
    #     RAAF::Tracing.add_trace_processor(Spanring::RAAF::Background.new(RAAF::Tracing::ActiveRecordProcessor.new))
    #
    # It is a processor itself. Spans wait in memory, at most `max_spans`; what comes beyond is dropped and counted. The inner processor gets
    # them by `export`, or one by one by `on_span_end` if it has none; errors of it are counted, and said once. Spans are kept as they are, not
    # copied: they have ended, and nobody changes them then. After a fork the child has a thread of its own, and nothing of its parent's.
    #
    # Invariant: the thread alone takes spans out of the queue and calls the inner processor.
    class Background
      # How long a shutdown waits, in seconds; and a process that ends, for all there are.
      SHUTDOWN_SECONDS = 5.0
      FAILURES = [StandardError, ScriptError, SystemStackError, NoMemoryError].freeze
      LATER = { Object => :never }.freeze
      # Ruby 3.1 has no timeout for a queue; it looks so often.
      LOOK_SECONDS = 0.01
      CAN_WAIT = RUBY_VERSION >= "3.2"
      private_constant :FAILURES, :LATER, :LOOK_SECONDS, :CAN_WAIT

      # A place in the queue: everything before it is to be exported.
      class Mark
        attr_accessor :reached
      end
      private_constant :Mark

      # All there are, for the child of a fork.
      @all = ObjectSpace::WeakMap.new

      # How long the process has waited at its end, in seconds.
      @waited = 0.0

      class << self
        def add(background) = @all[background] = true

        def after_fork
          @waited = 0.0
          @all.each_key(&:after_fork)
        end

        # The first time, all begin to export; who waits later has what is left of the time.
        def wait_at_exit(background)
          @all.each_key(&:force_flush) if @waited.zero?
          began = Process.clock_gettime(Process::CLOCK_MONOTONIC)
          left = SHUTDOWN_SECONDS - @waited
          background.force_flush(timeout: left.positive? ? left : nil)
        ensure
          @waited += Process.clock_gettime(Process::CLOCK_MONOTONIC) - began if began
        end
      end

      # Runs in the child before anything else does.
      module Fork
        def _fork
          pid = super
          Background.after_fork if pid.zero?
          pid
        end
      end
      private_constant :Fork
      Process.singleton_class.prepend(Fork)

      def initialize(processor, batch_size: 50, interval: 5.0, max_spans: 1000)
        unless processor.respond_to?(:export) || processor.respond_to?(:on_span_end)
          raise ArgumentError, "a processor has export or on_span_end; #{processor.class} has neither"
        end
        { batch_size: batch_size, interval: interval, max_spans: max_spans }.each do |name, value|
          raise ArgumentError, "#{name} must be a number above 0, not #{value.inspect}" unless value.is_a?(Numeric) && value.positive?
        end

        @processor = processor
        @batch_size = batch_size
        @interval = interval
        @max_spans = max_spans
        @starting = Mutex.new
        @ending = false
        after_fork
        Background.add(self)
        at_exit do
          # What ends from now on has nobody to wait for.
          @ending = Process.pid
          Background.wait_at_exit(self)
        end
      end

      def on_span_start(_span) = nil

      def on_span_end(span)
        Thread.handle_interrupt(LATER) do
          if waiting >= @max_spans
            @dropped += 1
          else
            @queue << span
            @is_marked = false
            thread
          end
        rescue *FAILURES => error
          failed(1, error)
        end
        Background.wait_at_exit(self) if @ending == Process.pid
        nil
      end

      def export(spans)
        spans.each { |span| on_span_end(span) }
        nil
      rescue *FAILURES => error
        failed(1, error)
      end

      # Has everything exported that waits. Returns at once; with a timeout in seconds it waits, and says whether all was.
      def force_flush(timeout: nil)
        # Nothing came since the last mark, which is still in the queue: one is enough.
        return nil if timeout.nil? && @is_marked

        mark = Mark.new
        @is_marked = true
        @marks << mark
        @queue << mark
        thread
        timeout.nil? ? nil : wait(mark, timeout)
      rescue ThreadError
        # There is no thread to be had.
        false
      end
      alias flush force_flush

      # Exports what waits, and ends the inner processor. Spans may follow, if that one takes them, and another shutdown.
      def shutdown(timeout: SHUTDOWN_SECONDS)
        @ending == Process.pid ? Background.wait_at_exit(self) : force_flush(timeout: timeout)
        @processor.shutdown if @processor.respond_to?(:shutdown)
        nil
      rescue *FAILURES => error
        failed(0, error)
      end

      # Counts of spans: given to the inner processor, dropped since too many waited, lost with an error of the inner processor, waiting.
      def stats
        { exported: @exported, dropped: @dropped, failed: @failed, waiting: waiting }
      end

      # Forgets what is the parent's.
      def after_fork
        @queue = Thread::Queue.new
        @marks = [] # those in the queue
        @batch = []
        @held = @exported = @dropped = @failed = 0
        @is_marked = true # there is nothing to export
        @thread = nil
      end

      private

      # So many spans.
      def waiting = @queue.size - @marks.size + @held

      # The thread, started if there is none. In a trap handler, too, where a Mutex may be tried and no more.
      def thread
        return if @thread&.alive? || !@starting.try_lock

        begin
          @thread = start(@queue, @batch) unless @thread&.alive?
        ensure
          @starting.unlock
        end
      end

      def start(queue, batch)
        # It would inherit that it is not to be interrupted.
        marks = @marks
        thread = Thread.new { Thread.handle_interrupt(Object => :immediate) { work(queue, marks, batch) } }
        thread.name = "spanring background"
        thread.report_on_exception = false
        thread
      end

      # `batch` has what a thread that was killed had taken.
      def work(queue, marks, batch)
        deadline = monotonic
        loop do
          item = batch.empty? ? queue.pop : pop(queue, deadline - monotonic)
          case item
          when nil, Mark
            marks.delete(item) if item
            hand_over(batch)
            inner_flush if item
            item&.reached = true
          else
            deadline = monotonic + @interval if batch.empty?
            batch << item
            @held = batch.size
            hand_over(batch) if batch.size >= @batch_size
          end
        end
      end

      # nil if nothing came within so many seconds.
      def pop(queue, seconds)
        return queue.pop(timeout: [seconds, 0].max) if CAN_WAIT

        deadline = monotonic + seconds
        begin
          queue.pop(true)
        rescue ThreadError
          return nil if monotonic >= deadline

          sleep(LOOK_SECONDS)
          retry
        end
      end

      def hand_over(batch)
        return if batch.empty?

        spans = batch.dup
        batch.clear
        done = false
        begin
          if @processor.respond_to?(:export)
            @processor.export(spans)
          else
            spans.each { |span| @processor.on_span_end(span) }
          end
          @exported += spans.size
          done = true
        rescue *FAILURES => error
          failed(spans.size, error)
          done = true
        ensure
          @failed += spans.size unless done # the thread is killed
          @held = 0
          give_back_connections
        end
      end

      # For processors that wait for more themselves.
      def inner_flush
        @processor.force_flush if @processor.respond_to?(:force_flush)
      rescue *FAILURES => error
        failed(0, error)
      end

      # A thread keeps its database connection, of which the pool has few, until it gives it back.
      def give_back_connections
        ::ActiveRecord::Base.connection_pool.release_connection if defined?(::ActiveRecord::Base)
      rescue *FAILURES
        # It had none.
      end

      def wait(mark, timeout)
        deadline = monotonic + timeout
        until mark.reached
          return false if monotonic >= deadline

          thread
          sleep(LOOK_SECONDS)
        end
        true
      end

      def failed(spans, error)
        @failed += spans
        Spanring.send(:say_once, [:background, @processor.class], <<~SAID.chomp)
          #{@processor.class} failed behind Spanring::RAAF::Background (#{error.class}: #{error.message}); #stats counts the spans, this is said once
        SAID
      rescue *FAILURES
        nil
      end

      def monotonic = Process.clock_gettime(Process::CLOCK_MONOTONIC)
    end
  end
end
