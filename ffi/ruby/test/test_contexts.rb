# frozen_string_literal: true

# What is current, and that a span always ends: threads, fibers, enumerators, schedulers, every way out of a block.
require_relative "helper"
require "continuation" if RUBY_ENGINE == "ruby"
require "fiber"

class TestContexts < Case
  def setup
    super
    start
  end

  class Odd < StandardError
    def message = raise("no message")
  end

  class Latin < StandardError
    def message = (+"caf\xE9").force_encoding("ISO-8859-1")
  end

  [ArgumentError.new("wrong"), KeyError.new("key"), Odd.new, Latin.new, SystemExit.new(3), Interrupt.new(""), StopIteration.new("end"),
   Class.new(StandardError).new("anonymous")].each_with_index do |error, index|
    define_method("test_exception_#{index}_that_leaves_the_block_is_recorded_and_goes_on") do
      caught = assert_raises(error.class) { Spanring.span("outer") { Spanring.span("fails") { raise error } } }
      assert_same error, caught
      assert_nil Spanring.current_span
      %w[fails outer].each do |name|
        found = one(name)
        assert_equal 2, found.status["code"]
        assert found.status["message"].start_with?(error.class.to_s), found.status.inspect
        (event, attributes), = found.events
        assert_equal [1, "exception"], [found.events.size, event]
        assert_equal error.class.to_s, attributes["exception.type"]
        expected = error.is_a?(Odd) ? "" : error.message.encode("UTF-8")
        assert_equal expected, attributes["exception.message"]
        unless error.is_a?(Odd)
          trace = error.full_message(highlight: false, order: :top).encode("UTF-8", invalid: :replace, undef: :replace)
          assert_equal trace.scrub, attributes["exception.stacktrace"]
        end
      end
    end
  end

  def test_a_stack_that_is_too_deep
    deep = ->(depth) { Spanring.span("deep", depth: depth) { deep.call(depth + 1) } }
    assert_raises(SystemStackError) { deep.call(0) }
    assert_nil Spanring.current_span
    found = spans
    assert_operator found.size, :>, 100
    assert_equal found.size, Spanring.stats["created"]
  end

  def test_record_exception_leaves_the_status
    Spanring.span("span") do |span|
      span.record_exception(IOError.new("wrong"), { "a.b" => 1 }, retried: true)
    end
    found = one("span")
    assert_equal 0, found.status.fetch("code", 0)
    assert_equal({ "exception.type" => "IOError", "exception.message" => "wrong", "a.b" => 1, "retried" => true },
                 found.events[0][1].reject { |key, _| key == "exception.stacktrace" })
  end

  def test_the_error_in_hand_stays
    begin
      raise IOError, "in hand"
    rescue IOError => error
      Spanring.span("span", it: -> { raise "lazy" }) { assert_same error, $! }
      assert_same error, $!
      begin
        Spanring.span("fails") { raise KeyError }
      rescue KeyError
        nil
      end
      assert_same error, $!
      Spanring.span("quiet") {}
    end
    assert_nil $!
    Spanring.span("lazy", it: -> { raise "lazy" }) { assert_nil $! }
    assert_nil $!
    assert_empty by_name["quiet"].events
  end

  def returns = Spanring.span("span") { return :returned }

  WAYS_OUT = {
    "next" => ->(_) { Spanring.span("span") { next :next } },
    "break" => ->(_) { Spanring.span("span") { break :break } },
    "break of a loop around it" => ->(_) { [1].each { Spanring.span("span") { break } } },
    "return" => ->(test) { test.returns },
    "throw" => ->(_) { catch(:tag) { Spanring.span("span") { throw :tag, :thrown } } },
    "redo" => ->(_) { count = 0; Spanring.span("span") { count += 1; redo if count < 3; count } },
    "retry" => ->(_) { Spanring.span("span") { begin; raise "x"; rescue; nil; end } },
    "a lambda" => ->(_) { Spanring.span("span", &->(span) { span.trace_id }) },
    "a method" => ->(test) { Spanring.span("span", &test.method(:assert)) },
    "a symbol" => ->(_) { Spanring.span("span", &:trace_id) },
    "break of a proc" => ->(_) { [1, 2].each { |_| break Spanring.span("span") { break :inner } } },
    "StopIteration" => ->(_) { loop { Spanring.span("other") { raise StopIteration } }; Spanring.span("span") {} },
    "the end of a thread" => ->(_) { Thread.new { Spanring.span("span") { Thread.exit } }.join },
  }.freeze

  WAYS_OUT.each do |name, way|
    define_method("test_the_span_ends_by_#{name.tr(' ', '_')}") do
      Spanring.span("around") do |around|
        way.call(self)
        assert_same around, Spanring.current_span
      end
      assert_nil Spanring.current_span
      found = one("span")
      assert_empty found.events
      assert_equal 0, found.status.fetch("code", 0)
      around = one("around")
      assert_includes [around.span_id, nil], found.parent
    end
  end

  def test_the_values_of_the_ways_out
    assert_equal :next, WAYS_OUT["next"].call(self)
    assert_equal :break, WAYS_OUT["break"].call(self)
    assert_equal :returned, returns
    assert_equal :thrown, WAYS_OUT["throw"].call(self)
    assert_equal 3, WAYS_OUT["redo"].call(self)
  end

  def test_timeouts_end_the_span
    assert_raises(Timeout::Error) { Timeout.timeout(0.01) { Spanring.span("times out") { sleep } } }
    own = Class.new(StandardError)
    assert_raises(own) { Timeout.timeout(0.01, own) { Spanring.span("own error") { sleep } } }
    assert_nil Spanring.current_span
    found = by_name
    assert_equal own.to_s, found["own error"].events[0][1]["exception.type"]
    assert found["times out"]
  end

  def test_a_thread_that_is_killed_ends_its_spans
    inside = Queue.new
    thread = Thread.new { Spanring.span("outer") { Spanring.span("inner") { inside << 1; sleep } } }
    inside.pop
    thread.kill.join
    assert_equal %w[inner outer], by_name.keys.sort
  end

  def test_errors_from_another_thread
    inside = Queue.new
    thread = Thread.new { Spanring.span("span") { inside << 1; sleep } }
    thread.report_on_exception = false
    inside.pop
    thread.raise(IOError, "from elsewhere")
    assert_raises(IOError) { thread.join }
    assert_equal "from elsewhere", one("span").events[0][1]["exception.message"]
  end

  def test_a_thread_begins_without_a_parent_and_context_carries_one
    Spanring.span("parent") do
      context = Spanring.context
      Thread.new { Spanring.span("alone") {} }.join
      Thread.new { Spanring.attach(context) { Spanring.span("carried") {} } }.join
      Thread.new do
        assert_nil Spanring.current_span
        Spanring.attach(context) do
          assert_nil Spanring.current_span
          assert_equal context.trace_id, Spanring.log_fields[:trace_id]
        end
        assert_equal({}, Spanring.log_fields)
      end.join
    end
    found = by_name
    assert_nil found["alone"].parent
    assert_equal found["parent"].span_id, found["carried"].parent
  end

  def test_many_threads_keep_their_own_parents
    threads = (0...8).map do |number|
      Thread.new do
        200.times do |turn|
          Spanring.span("outer", thread: number, turn: turn) do |outer|
            Thread.pass
            Spanring.span("inner", thread: number, turn: turn) { |_| Thread.pass }
            raise "mixed" unless Spanring.current_span.equal?(outer)
          end
        end
      end
    end
    threads.each(&:join)
    outer, inner = spans.partition { |span| span.name == "outer" }
    assert_equal [1600, 1600], [outer.size, inner.size]
    ids = outer.to_h { |span| [span.attributes, span.span_id] }
    assert(inner.all? { |span| span.parent == ids.fetch(span.attributes) })
    assert(outer.all? { |span| span.parent.nil? })
  end

  def test_fibers_keep_their_own_parents
    fibers = (0...50).map do |number|
      Fiber.new do
        Spanring.span("outer", number: number) do |outer|
          Fiber.yield
          Spanring.span("inner", number: number) { Fiber.yield }
          raise "mixed" unless Spanring.current_span.equal?(outer)
        end
      end
    end
    Spanring.span("main") do |main|
      3.times { fibers.each { |fiber| fiber.resume; raise "mixed" unless Spanring.current_span.equal?(main) } }
    end
    assert(fibers.none?(&:alive?))
    found = spans
    ids = found.select { |span| span.name == "outer" }.to_h { |span| [span.attributes["number"], span] }
    assert(ids.values.all? { |span| span.parent.nil? })
    assert(found.select { |span| span.name == "inner" }.all? { |span| span.parent == ids[span.attributes["number"]].span_id })
  end

  def test_enumerators_with_external_next
    steps = Enumerator.new do |out|
      Spanring.span("in the enumerator") do
        out << 1
        Spanring.span("step") { out << 2 }
        out << 3
      end
    end
    Spanring.span("main") do |main|
      assert_equal 1, steps.next
      assert_same main, Spanring.current_span
      Spanring.span("between") { assert_equal 2, steps.next }
      assert_equal 3, steps.next
      assert_raises(StopIteration) { steps.next }
    end
    # By each, in the same fiber.
    Spanring.span("each") { steps.each { |_| } }
    found = spans.group_by(&:name)
    assert_equal found["main"][0].span_id, found["between"][0].parent
    external, internal = found["in the enumerator"]
    assert_nil external.parent
    assert_equal found["each"][0].span_id, internal.parent
    assert_equal [external, internal].map(&:span_id), found["step"].map(&:parent)
  end

  def test_a_lazy_enumerator_and_one_that_is_abandoned_at_its_first_item
    endless = Enumerator.new { |out| Spanring.span("abandoned") { loop { out << 1 } } }
    endless.next
    endless = nil
    assert_equal [1], Enumerator.new { |out| Spanring.span("lazy") { out << 1 << 2 } }.lazy.first(1)
    abandon_and_collect("abandoned")
  end

  def test_fibers_that_are_abandoned_end_their_spans_when_they_are_collected
    make = lambda do |number|
      fiber = Fiber.new do
        Spanring.span("outer", number: number) { Spanring.span("inner", number: number) { Spanring.attach(nil) { Fiber.yield } } }
      end
      fiber.resume
      nil
    end
    Thread.new { 100.times(&make) }.join
    found = nil
    20.times do
      clear_stack
      GC.start
      Spanring.span("other") {}
      found = spans.map(&:name).tally
      break if found["inner"].to_i >= 95
    end
    assert_operator found["inner"], :>=, 95
    assert_equal found["inner"], found["outer"]
  end

  # What a dead frame left on the C stack keeps objects alive.
  def clear_stack(depth = 200) = depth.zero? ? nil : [clear_stack(depth - 1), nil].first

  def abandon_and_collect(name)
    20.times do
      clear_stack
      GC.start
      Spanring.span("other") {}
      return if spans.any? { |span| span.name == name }
    end
    flunk "#{name} never ended"
  end

  def test_spans_that_are_forgotten_end
    Thread.new { Spanring.start_span("forgotten", { key: 1 }); nil }.join
    abandon_and_collect("forgotten")
    assert_equal({ "key" => 1 }, one("forgotten").attributes)
  end

  # The least that a scheduler must do: sleeps that others run in.
  class Scheduler
    def initialize = @ready = {}
    def block(*) = Fiber.yield
    def unblock(_, fiber) = @ready[fiber] = 0
    def io_wait(*) = raise(NotImplementedError)

    def kernel_sleep(seconds = 0)
      @ready[Fiber.current] = Process.clock_gettime(Process::CLOCK_MONOTONIC) + seconds
      Fiber.yield
    end

    def fiber(&block) = Fiber.new(blocking: false, &block).tap(&:resume)

    def close
      until @ready.empty?
        fiber, = @ready.min_by(&:last)
        @ready.delete(fiber)
        fiber.resume
      end
    end
  end

  def test_a_fiber_scheduler
    Thread.new do
      Fiber.set_scheduler(Scheduler.new)
      Spanring.span("main") do
        context = Spanring.context
        10.times do |number|
          Fiber.schedule do
            Spanring.attach(context) do
              Spanring.span("task", number: number) do
                sleep(0)
                Spanring.span("step", number: number) { sleep(0) }
              end
            end
          end
        end
        Fiber.schedule { Spanring.span("alone") { sleep(0) } }
      end
    end.join
    found = spans.group_by(&:name)
    assert_equal [10, 10], [found["task"].size, found["step"].size]
    assert(found["task"].all? { |span| span.parent == found["main"][0].span_id })
    tasks = found["task"].to_h { |span| [span.attributes["number"], span.span_id] }
    assert(found["step"].all? { |span| span.parent == tasks[span.attributes["number"]] })
    assert_nil found["alone"][0].parent
  end

  def test_fibers_that_come_and_go_never_meet_anothers_parent
    # Addresses of fibers are used again; what is current must not be.
    500.times do |number|
      Fiber.new { Spanring.span("left", number: number) { Fiber.yield } }.resume
      GC.start(full_mark: false) if (number % 50).zero?
      Fiber.new do
        raise "another's" unless Spanring.current_span.nil?

        Spanring.span("whole") { |span| raise "another's" unless Spanring.current_span.equal?(span) }
      end.resume
    end
    assert(spans.select { |span| span.name == "whole" }.all? { |span| span.parent.nil? })
  end

  def test_a_fiber_at_the_address_of_the_last_one_has_nothing_current
    address = ->(fiber) { fiber.inspect[/0x\h+/] }
    leave = -> { Fiber.new { Spanring.span("left") { Fiber.yield } }.tap(&:resume).then(&address) }
    20.times do
      left = leave.call
      clear_stack
      GC.start
      fibers = Array.new(2000) { Fiber.new { Spanring.current_span } }
      fibers.each { |fiber| assert_nil fiber.resume if address.call(fiber) == left }
    end
  end

  def test_a_continuation_that_skips_the_end_of_a_block
    turns = []
    Spanring.span("outer") do
      here = callcc { |continuation| continuation }
      turns << 1
      Spanring.span("skipped") { here.call(here) } if turns.size == 1
    end
    assert_nil Spanring.current_span
    assert_equal %w[outer skipped], by_name.keys.sort
  end

  def test_continuations_that_come_back
    again = nil
    turns = 0
    Spanring.span("outer") do
      Spanring.span("inner") do
        callcc { |here| again = here }
        turns += 1
      end
    end
    again.call if turns < 3
    assert_equal 3, turns
    assert_nil Spanring.current_span
    assert_equal %w[inner outer], by_name.keys.sort
  end

  def test_what_a_continuation_left_is_kept_until_its_parent_ends
    out, = script(<<~RUBY)
      require "continuation"
      begin_spans
      def clear_stack(depth = 200) = depth.zero? ? nil : [clear_stack(depth - 1), nil].first
      deep = ->(depth, body) { depth.zero? ? body.call : deep.call(depth - 1, body) }
      200.times do
        Spanring.span("outer") do
          turns = []
          here = callcc { |continuation| continuation }
          turns << 1
          deep.call(20, -> { Spanring.span("skipped") { here.call(here) } }) if turns.size == 1
          clear_stack
          GC.start
          10.times { Spanring.start_span("other") }
          raise "freed" unless Spanring.current_span.is_a?(Spanring::Span)
          Spanring.span("child") {}
        end
      end
      puts "done"
    RUBY
    assert_equal "done\n", out
  end

  def test_a_continuation_of_a_lazy_value_that_comes_back
    out, = script(<<~RUBY)
      require "continuation"
      begin_spans
      again = nil
      turns = 0
      lazy = -> { callcc { |here| again = here }; turns += 1 }
      Spanring.span("span", long: "x" * 4000, it: lazy, longer: "y" * 9000) {}
      100.times { "z" * 4000 }
      again.call if turns < 50
      puts turns
    RUBY
    assert_equal "50\n", out
    assert_equal 1, names.count("span")
  end

  def test_nesting_where_the_stack_is_nearly_full
    script(<<~RUBY, seconds: 60)
      begin_spans
      nested = (0...100).inject(1) { |value, _| [{ a: value }] }
      deep = ->(depth) { Spanring.span("deep") { |span| span["it"] = nested; deep.call(depth + 1) } }
      pad = ->(count, body) { count.zero? ? body.call : [1].each { pad.call(count - 1, body) } }
      20.times do |number|
        Fiber.new { pad.call(number % 15, -> { begin; deep.call(0); rescue SystemStackError; nil; end }) }.resume
      end
      Spanring.span("after") {}
    RUBY
    found = recorded.group_by(&:name)
    assert_equal 1, found["after"].size
    shallow, whole = found["deep"].select { |span| span.attributes.key?("it") }.partition { |span| span.raw.to_s.scan("arrayValue").size < 20 }
    refute_empty shallow
    refute_empty whole
  end

  def test_deep_nesting
    nest = ->(depth) { depth.zero? ? Spanring.current_span : Spanring.span("level", depth: depth) { nest.call(depth - 1) } }
    nest.call(500)
    found = spans
    by_id = found.to_h { |span| [span.span_id, span] }
    deepest = found.find { |span| span.attributes["depth"] == 1 }
    count = 0
    while deepest
      count += 1
      deepest = by_id[deepest.parent]
    end
    assert_equal 500, count
  end

  def test_attach_nothing_makes_roots
    Spanring.span("outer") do |outer|
      Spanring.attach(nil) do
        assert_nil Spanring.current_span
        assert_equal({}, Spanring.inject)
        Spanring.span("root") {}
      end
      assert_same outer, Spanring.current_span
    end
    found = by_name
    assert_nil found["root"].parent
    refute_equal found["outer"].trace_id, found["root"].trace_id
  end

  PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

  [{ "traceparent" => PARENT, "tracestate" => "a=1" }, { "HTTP_TRACEPARENT" => PARENT, "HTTP_TRACESTATE" => "a=1", "rack.input" => nil },
   { "Traceparent" => [PARENT], "TraceState" => ["a=1"] }, [["traceparent", PARENT], ["tracestate", "a=1"]],
   { traceparent: PARENT, tracestate: "a=1" }, { "traceparent" => PARENT.b, "tracestate" => "a=1".b }].each_with_index do |headers, index|
    define_method("test_headers_#{index}") do
      context = Spanring.extract(headers)
      assert context.remote?
      assert context.sampled?
      assert_equal %w[0af7651916cd43dd8448eb211c80319c b7ad6b7169203331], [context.trace_id, context.span_id]
      out = nil
      Spanring.attach(headers) { Spanring.span("below") { |span| out = [span.span_id, Spanring.inject({})] } }
      found = one("below")
      assert_equal %w[0af7651916cd43dd8448eb211c80319c b7ad6b7169203331], [found.trace_id, found.parent]
      assert_equal "00-0af7651916cd43dd8448eb211c80319c-#{out[0]}-01", out[1]["traceparent"]
      assert_equal "a=1", out[1]["tracestate"]
    end
  end

  [{}, { "traceparent" => "nonsense" }, { "traceparent" => "" }, { "traceparent" => "\xFF" }, { "traceparent" => [PARENT, PARENT] },
   { "traceparent" => 7 }, { "traceparent" => "00-00000000000000000000000000000000-b7ad6b7169203331-01" }, [nil, 7]].each_with_index do |headers, index|
    define_method("test_headers_that_cannot_be_used_#{index}") do
      Spanring.attach(headers) { Spanring.span("root") {} }
      assert_nil one("root").parent
      assert_equal({ a: 1 }, Spanring.inject({ a: 1 }, Spanring.extract(headers)))
    end
  end

  def test_headers_of_any_bytes_and_encodings
    odd = { "\xFF" => "a", "a".encode("UTF-16LE") => "b", (+"c").force_encoding("UTF-7") => "d" }
    context = Spanring.extract({ "TraceParent" => PARENT, "tracestate" => ["a=1", "é".encode("UTF-16LE")] }.merge(odd))
    assert_equal "b7ad6b7169203331", context.span_id
    assert_equal "0" * 16, Spanring.extract(odd).span_id
  end

  def test_a_long_tracestate
    state = (0...30).map { |number| "key#{number}=#{'v' * 100}" }.join(",")
    headers = Spanring.inject({}, Spanring.extract("traceparent" => PARENT, "tracestate" => state))
    assert_equal state, headers["tracestate"]
  end

  def test_inspect
    span = Spanring.start_span("span")
    assert_equal "#<Spanring::Span trace_id=#{span.trace_id} span_id=#{span.span_id}>", span.inspect
    assert_match(/\A#<Spanring::Context trace_id=0{32} span_id=0{16}>\z/, Spanring.extract({}).inspect)
  end

  def test_ractors_are_refused
    _, said = script(<<~RUBY)
      begin_spans
      Spanring.span("main") {}
      [-> { Spanring.span("x") {} }, -> { Spanring.start_span("x") }, -> { Spanring.current_span }].each_with_index do |_, at|
        ractor = Ractor.new(at) do |which|
          case which
          when 0 then Spanring.span("x") {}
          when 1 then Spanring.start_span("x")
          else Spanring.current_span
          end
        end
        begin
          ractor.take
        rescue Ractor::RemoteError => error
          raise error.cause unless error.cause.is_a?(Ractor::UnsafeError)
          warn error.cause.message
        else
          raise "not refused"
        end
      end
      # One that does other things, and collects, disturbs nobody.
      busy = Ractor.new { 20.times { Array.new(10_000) { "x" * 100 }; GC.start }; :done }
      2000.times { Spanring.span("beside") { |span| span.set(a: 1) } }
      raise unless busy.take == :done
    RUBY
    assert_includes said, "ractor unsafe method called from not main ractor"
    assert_equal({ "main" => 1, "beside" => 2000 }, recorded.map(&:name).tally)
  end
end
