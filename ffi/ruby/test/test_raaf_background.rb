# frozen_string_literal: true

# A thread for RAAF's other processors.
require_relative "helper"
require "spanring/raaf"

class TestRAAFBackground < Case
  Background = Spanring::RAAF::Background

  # As ActiveRecord's: batches come by export.
  class Inner
    attr_reader :batches, :threads, :flushes, :shutdowns

    def initialize
      @batches = []
      @threads = []
      @flushes = @shutdowns = 0
    end

    def export(spans)
      @threads << Thread.current
      @batches << spans
    end

    def spans = @batches.flatten
    def force_flush = @flushes += 1
    def shutdown = @shutdowns += 1
  end

  # Holds its thread until told.
  class Gate < Inner
    attr_reader :entered, :leave

    def initialize
      super
      @entered = Queue.new
      @leave = Queue.new
    end

    def export(spans)
      @entered << 1
      @leave.pop
      super
    end
  end

  def capture
    before, $stderr = $stderr, StringIO.new
    yield
    $stderr.string
  ensure
    $stderr = before
  end

  def wait_until(seconds = 60)
    Timeout.timeout(seconds) { Thread.pass until yield }
  end

  def test_spans_come_in_batches_on_another_thread_in_their_order
    inner = Inner.new
    background = Background.new(inner, batch_size: 10, interval: 3600)
    25.times { |number| background.on_span_end(number) }
    wait_until { inner.batches.size == 2 }
    assert_equal [(0...10).to_a, (10...20).to_a], inner.batches
    assert_equal true, background.force_flush(timeout: 60)
    assert_equal (0...25).to_a, inner.spans
    refute_includes inner.threads, Thread.current
    assert_equal 1, inner.threads.uniq.size
    assert_equal({ exported: 25, dropped: 0, failed: 0, waiting: 0 }, background.stats)
  end

  def test_a_span_waits_for_the_interval_at_most
    inner = Inner.new
    background = Background.new(inner, batch_size: 1000, interval: 0.05)
    background.on_span_end(:first)
    wait_until { inner.spans == [:first] }
    background.on_span_start(:nothing)
    background.export(%i[second third])
    wait_until { inner.spans == %i[first second third] }
  end

  def test_the_spans_themselves_are_given
    inner = Inner.new
    background = Background.new(inner)
    background.on_span_end(span = Object.new)
    background.force_flush(timeout: 60)
    assert_same span, inner.spans[0]
  end

  def test_a_processor_without_export
    inner = Class.new { attr_reader(:spans) && def on_span_end(span) = (@spans ||= []) << span }.new
    background = Background.new(inner)
    background.export([1, 2])
    assert background.force_flush(timeout: 60)
    assert_equal [1, 2], inner.spans
  end

  def test_what_exceeds_the_bound_is_dropped_and_counted
    gate = Gate.new
    background = Background.new(gate, batch_size: 2, interval: 3600, max_spans: 10)
    100.times { |number| background.on_span_end(number) if number < 2 }
    gate.entered.pop
    98.times { |number| background.on_span_end(number + 2) }
    # One flush is as good as many, and none takes room.
    1000.times { assert_nil background.force_flush }
    assert_equal false, background.force_flush(timeout: 0.01)
    stats = background.stats
    assert_equal 90, stats[:dropped]
    assert_includes 10..13, stats[:waiting]
    20.times { gate.leave << 1 }
    assert background.force_flush(timeout: 60)
    assert_equal (0...10).to_a, gate.spans
    assert_equal({ exported: 10, dropped: 90, failed: 0, waiting: 0 }, background.stats)
  end

  def test_errors_of_the_processor_are_counted_and_said_once
    kind = Class.new(Inner) do
      def self.name = "Broken"
      define_method(:export) { |spans| super(spans); raise [IOError, NotImplementedError, NoMemoryError][batches.size % 3], "no database" unless batches.size > 4 }
      def force_flush = raise("no flush")
      def shutdown = raise("no shutdown")
    end
    inner = kind.new
    background = Background.new(inner, batch_size: 1)
    said = capture do
      6.times { |number| background.on_span_end(number) }
      assert background.force_flush(timeout: 60)
      assert_nil background.shutdown
    end
    assert_equal (0...6).to_a, inner.spans
    assert_equal({ exported: 2, dropped: 0, failed: 4, waiting: 0 }, background.stats)
    assert_equal 1, said.lines.size
    assert_match(/failed behind Spanring::RAAF::Background \(NotImplementedError: no database\)/, said)
  end

  def test_a_thread_that_is_killed_is_replaced_and_nothing_it_held_is_lost
    gate = Gate.new
    background = Background.new(gate, batch_size: 2, interval: 3600)
    background.on_span_end(1)
    background.on_span_end(2)
    gate.entered.pop
    first = background.instance_variable_get(:@thread)
    first.kill.join
    assert_equal 2, background.stats[:failed]
    background.on_span_end(3)
    wait_until { background.instance_variable_get(:@held) == 1 }
    second = background.instance_variable_get(:@thread)
    refute_same first, second
    second.kill.join
    gate.leave << 1
    background.on_span_end(4)
    assert background.force_flush(timeout: 60)
    assert_equal [3, 4], gate.spans
  end

  def test_a_shutdown_may_come_again_and_spans_may_follow
    inner = Inner.new
    background = Background.new(inner)
    3.times do |number|
      background.on_span_end(number)
      assert_nil background.shutdown
      assert_equal (0..number).to_a, inner.spans
    end
    assert_equal 3, inner.shutdowns
    assert_operator inner.flushes, :>=, 3
  end

  def test_database_connections_are_given_back
    given = Queue.new
    pool = Struct.new(:given) { def release_connection = given << Thread.current }.new(given)
    Object.const_set(:ActiveRecord, Module.new)
    ::ActiveRecord.const_set(:Base, Class.new { define_singleton_method(:connection_pool) { pool } })
    inner = Inner.new
    background = Background.new(inner)
    background.on_span_end(1)
    background.force_flush(timeout: 60)
    assert_same inner.threads[0], given.pop
  ensure
    Object.send(:remove_const, :ActiveRecord)
  end

  def test_what_stops_a_flush_is_the_hosts
    gate = Gate.new
    background = Background.new(gate, batch_size: 1)
    background.on_span_end(1)
    gate.entered.pop
    assert_raises(IOError) { Timeout.timeout(0.1, IOError) { background.force_flush(timeout: 60) } }
    gate.leave << 1
    assert background.force_flush(timeout: 60)
  end

  def test_arguments
    [[Object.new, {}], [Inner.new, { batch_size: 0 }], [Inner.new, { interval: -1 }], [Inner.new, { max_spans: "many" }], [Inner.new, { batches: 1 }]].each do |inner, options|
      assert_raises(ArgumentError) { Background.new(inner, **options) }
    end
  end

  HEAD = <<~RUBY
    require "spanring/raaf"
    class Log
      def initialize(file, processor = $$) = @file = file
      def export(spans) = File.open(@file, "a") { |file| spans.each { |span| file.puts("\#{$$} \#{span}") } }
    end
    def background(**options) = Spanring::RAAF::Background.new(Log.new(PLACE), interval: 3600, **options)
  RUBY

  def lines = File.readlines(@place, chomp: true).map(&:split)

  def test_forks_have_their_own_thread_and_nothing_of_their_parents
    out, = script(HEAD + <<~RUBY)
      background = background()
      5.times { |number| background.on_span_end("parent") }
      children = (0...4).map do |number|
        fork do
          background.on_span_end("child")
          background.on_span_end("child")
          check = background.stats[:waiting]
          raise check.to_s if check > 2
          if number.even?
            background.force_flush(timeout: 30) || raise("not flushed")
            exit!(0)
          end
        end
      end
      children.each { |child| Process.wait2(child)[1].success? || raise("child") }
      puts $$
      background.on_span_end("parent")
    RUBY
    found = lines
    parents, children = found.partition { |pid, _| pid == out.strip }
    assert_equal ["parent"] * 6, parents.map(&:last)
    assert_equal ["child"] * 8, children.map(&:last)
    assert_equal [2] * 4, children.group_by(&:first).values.map(&:size)
  end

  def test_a_fork_of_another_thread
    script(HEAD + <<~RUBY)
      background = background()
      background.on_span_end("parent")
      Thread.new { Process.wait(fork { background.on_span_end("child") }) }.join
    RUBY
    assert_equal %w[child parent], lines.map(&:last).sort
  end

  {
    "normal" => ["", 0, 3],
    "an error" => ["raise 'uncaught'", 1, 3],
    "TERM" => ["Process.kill(:TERM, $$); sleep", -15, 3],
    "handlers before and after" => ["at_exit { BACKGROUND.on_span_end('late') }", 0, 4],
    "shutdown" => ["BACKGROUND.shutdown; BACKGROUND.on_span_end('late')", 0, 4],
    "in a trap" => ["trap(:USR1) { BACKGROUND.on_span_end('late'); BACKGROUND.force_flush; BACKGROUND.force_flush(timeout: 30) || raise('not flushed') }; Process.kill(:USR1, $$)", 0, 4],
    "first in a trap" => ["OTHER = background; trap(:USR1) { OTHER.on_span_end('late'); exit(5) }; Process.kill(:USR1, $$); sleep", 5, 4],
  }.each do |way, (text, status, count)|
    define_method("test_everything_is_there_after_#{way.gsub(/\W+/, "_")}") do
      script(HEAD + <<~RUBY, status: status)
        at_exit { BACKGROUND.on_span_end("last") }
        BACKGROUND = background
        at_exit { BACKGROUND.on_span_end("first") }
        BACKGROUND.on_span_end("span")
        #{text}
      RUBY
      assert_equal count, lines.size
    end
  end

  def test_an_exit_by_itself_exports_what_waits
    script(HEAD + "background.on_span_end('span')")
    assert_equal 1, lines.size
  end

  def test_a_processor_that_hangs_holds_up_no_exit
    script(<<~RUBY, seconds: 60)
      require "spanring/raaf"
      Spanring::RAAF::Background.send(:remove_const, :SHUTDOWN_SECONDS)
      Spanring::RAAF::Background::SHUTDOWN_SECONDS = 0.5
      hangs = Class.new { def export(_spans) = sleep }.new
      background = Spanring::RAAF::Background.new(hangs, batch_size: 1)
      background.on_span_end(1)
      raise "flushed" if background.force_flush(timeout: 0.1)
    RUBY
  end

  # Not as many times as spans come, nor for each processor.
  def test_an_exit_waits_once_for_processors_that_hang
    out, = script(<<~RUBY, seconds: 60)
      require "spanring/raaf"
      Spanring::RAAF::Background.send(:remove_const, :SHUTDOWN_SECONDS)
      Spanring::RAAF::Background::SHUTDOWN_SECONDS = 0.5
      WAITED = []
      Spanring::RAAF::Background.prepend(Module.new { def force_flush(timeout: nil) = super.tap { WAITED << timeout if timeout } })
      at_exit { p WAITED.size, WAITED.sum }
      at_exit { BACKGROUNDS.each { |background| 20.times { background.on_span_end(2) } && background.shutdown } }
      writes = Class.new { def export(spans) = spans.each { |span| $stdout.syswrite("\#{span}\\n") } }.new
      works = Spanring::RAAF::Background.new(writes, interval: 3600)
      hangs = Class.new { def export(_spans) = sleep }
      BACKGROUNDS = Array.new(3) { Spanring::RAAF::Background.new(hangs.new, batch_size: 1) }
      BACKGROUNDS.each { |background| background.on_span_end(1) }
      works.on_span_end(:works)
    RUBY
    works, waits, seconds = out.split
    assert_equal "works", works
    assert_equal [1, 0.5], [Integer(waits), Float(seconds)]
  end

  def test_flushes_take_no_room
    gate = Gate.new
    background = Background.new(gate, batch_size: 1, max_spans: 3)
    background.on_span_end(0)
    gate.entered.pop
    2.times do |number|
      assert_equal false, background.force_flush(timeout: 0)
      background.on_span_end(number + 1)
    end
    assert_equal({ exported: 0, dropped: 0, failed: 0, waiting: 3 }, background.stats)
    3.times { gate.leave << 1 }
    assert background.force_flush(timeout: 60)
    assert_equal [0, 1, 2], gate.spans
    assert_equal 0, background.stats[:waiting]
  end
end
