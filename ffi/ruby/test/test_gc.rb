# frozen_string_literal: true

# The garbage collector at its worst, compaction, and that nothing is kept.
require_relative "helper"
require "objspace"

class TestGC < Case
  EXERCISE = <<~RUBY
    class Token; def to_s = "token"; end
    def exercise(count)
      value = Token.new
      count.times do |number|
        Spanring.span("span", it: value, number: number, text: "text " + number.to_s, items: [value, 1, { a: :b }], lazy: -> { value.to_s }) do |span|
          span.set({ "a.b" => value })
          span["key"] = value
          Spanring.span(:child) { |child| child.trace_id }
        end
        next unless (number % 10).zero?

        Spanring.span("dynamic \#{number}", { "key \#{number}" => 1, "broken \\xFF" => "\\xFF".b, "é" => "é".encode("UTF-16LE") }) do |span|
          span.event("event", it: value)
          span.link(span, it: value)
          span.status(:error, "why")
          span.record_exception(IOError.new("wrong"))
          headers = Spanring.inject({}, span)
          Spanring.attach(headers) { Spanring.attach(span) { Spanring.attach(nil) { [span.trace_id, span.inspect, Spanring.current_span, Spanring.context] } } }
        end
        begin
          Spanring.span("fails", big: 1 << 80, time: Time.at(number), deep: [[[[number.to_s]]]]) { raise IOError, "wrong" }
        rescue IOError
          nil
        end
        [-> { Spanring.span(7) {} }, -> { Spanring.span("a", 7) {} }, -> { Spanring.span("a", { 1 => 2 }) {} }].each do |wrong|
          wrong.call
        rescue TypeError
          nil
        end
        Fiber.new { Spanring.span("abandoned") { Fiber.yield } }.resume
        Fiber.new { Spanring.span("in a fiber") { Spanring.span("below") { |span| span.set(lazy: -> { Spanring.current_span.inspect }) } } }.resume
        Thread.new { Spanring.span("in a thread") { Spanring.start_span("forgotten", { a: value }) } }.join if (number % 100).zero?
        Spanring.log_fields
      end
    end
  RUBY

  def test_every_allocation_collects
    script(EXERCISE + <<~RUBY)
      begin_spans
      exercise(1)
      GC.stress = true
      exercise(12)
      GC.stress = false
      Spanring.flush(30)
      dropped = Spanring.stats["dropped"].values.sum
      raise "\#{dropped} dropped" unless dropped.zero?
      Spanring.span("after") {}
    RUBY
    found = recorded.map(&:name).tally
    assert_equal [13, 13, 3, 1], found.values_at("span", "child", "in a fiber", "after")
    assert(recorded.select { |span| span.name == "span" }.all? { |span| span.attributes["lazy"] == "token" && span.attributes["key"] == "token" })
  end

  def test_everything_may_move
    skip "no compaction here" unless GC.respond_to?(:compact) && GC.respond_to?(:verify_compaction_references)
    script(EXERCISE + <<~RUBY)
      begin_spans
      held = Array.new(50) { |number| Spanring.start_span("held", { number: number }) }
      fibers = Array.new(50) do |number|
        Fiber.new do
          Spanring.span("outer", number: number) do |outer|
            Spanring.attach(Spanring.context) do
              Spanring.span("inner", number: number) do |inner|
                Fiber.yield
                raise "moved" unless Spanring.current_span.equal?(inner)
                Spanring.span("leaf", number: number) {}
              end
            end
            raise "moved" unless Spanring.current_span.equal?(outer)
          end
        end.tap(&:resume)
      end
      exercise(30)
      Spanring.span("main") do |main|
        GC.verify_compaction_references(toward: :empty, double_heap: true)
        GC.compact
        raise "moved" unless Spanring.current_span.equal?(main)
        names = Array.new(3000) { |number| "name \#{number}".freeze }
        3.times { names.each { |name| Spanring.span(name) {} }; GC.compact }
        exercise(30)
      end
      fibers.each(&:resume)
      GC.compact
      held.each { |span| Spanring.span("of held", { of: span.span_id }, nil, span) {}; span.end }
      GC.auto_compact = true
      exercise(200)
      Spanring.flush(30)
    RUBY
    found = recorded.group_by(&:name)
    ids = found["inner"].to_h { |span| [span.attributes["number"], span.span_id] }
    assert_equal 50, ids.size
    assert(found["leaf"].all? { |span| span.parent == ids.fetch(span.attributes["number"]) })
    assert_equal 50, found["of held"].size
    assert(found["of held"].all? { |span| span.parent == span.attributes["of"] })
    3000.times { |number| assert_equal 3, found["name #{number}"].size }
  end

  def test_names_that_are_converted_by_what_has_names_of_its_own
    script(<<~RUBY)
      begin_spans
      OTHERS = Array.new(4000) { |number| "other \#{number}".freeze }
      String.prepend(Module.new do
        def scrub(*)
          OTHERS.each { |name| 2.times { Spanring.start_span(name).end } } if $others
          super
        end
      end)
      broken = "broken \\xFF".freeze
      Spanring.span(broken) {}
      $others = true
      Spanring.span(broken) {}
      $others = false
      Spanring.span(broken) {}
      OTHERS.reverse_each { |name| Spanring.start_span(name).end }
    RUBY
    found = names.tally
    assert_equal 3, found["broken \uFFFD"]
    assert_equal 4000, found.count { |name, count| name.start_with?("other") && count == 3 }
  end

  def test_fibers_that_are_abandoned_in_a_lazy_value_leave_nothing
    out, = script(<<~RUBY)
      begin_spans
      abandon = lambda do |count|
        count.times do |number|
          Fiber.new { Spanring.span("span", long: "x" * 100_000, it: -> { Fiber.yield }) {} }.resume
          GC.start if (number % 50).zero?
        end
        3.times { GC.start }
        Integer(File.read("/proc/self/statm").split[1]) * 4
      end
      before = abandon.call(300)
      puts abandon.call(1500) - before
    RUBY
    # A buffer that were kept would be 200 KB.
    assert_operator Integer(out), :<, 100_000
  end

  def test_nothing_is_kept
    out, = script(EXERCISE + <<~RUBY)
      require "objspace"
      Spanring.start(dir: PLACE, ignore_environment: true, log_level: :fatal, retention_bytes: "1MiB", segment_max_bytes: "256KiB")
      counts = lambda do
        3.times { GC.start }
        Spanring.flush(30)
        [Spanring::Span, Spanring::Context, Fiber, Thread].map { |type| ObjectSpace.each_object(type).count } << Integer(File.read("/proc/self/statm").split[1]) * 4
      end
      exercise(20_000)
      before = counts.call
      exercise(60_000)
      puts (counts.call.zip(before).map { |now, was| now - was }).inspect
    RUBY
    spans, contexts, fibers, threads, kilobytes = JSON.parse(out)
    [spans, contexts, fibers, threads].each { |more| assert_operator more, :<, 50 }
    # A span that were kept would cost 160 bytes.
    assert_operator kilobytes, :<, 6000
  end

  def test_a_span_is_one_object_and_with_attributes_two
    start
    bare = -> { Spanring.span("bare") { |span| span } }
    four = -> { Spanring.span("four", system: "postgresql", rows: 7, cached: true, cost: 1.5) { |span| span } }
    [[bare, 1], [four, 2]].each do |body, most|
      5.times { body.call }
      before = GC.stat(:total_allocated_objects)
      i = 0
      while i < 1000
        body.call
        i += 1
      end
      assert_in_delta most * 1000, GC.stat(:total_allocated_objects) - before, 20
    end
  end

  def test_sizes_are_told
    start
    assert_operator ObjectSpace.memsize_of(Spanring.start_span("span")), :>=, 40 + 90
    assert_operator ObjectSpace.memsize_of(Spanring.context), :>=, 40 + 64
  end
end
