# frozen_string_literal: true

require_relative "helper"

# Rules of sampling and levels, as far as Ruby has to do with them.
class TestSampling < Case
  class Worker
    include Spanring::Traceable
    attr_reader :tracing_level

    def initialize(level) = @tracing_level = level

    def run(**more)
      with_tracing(:run, **more) { |span| span.recording? }
    end
  end

  def test_rules_see_what_a_span_starts_with
    start(rules: ["rows>=100 -> always", "priority=high -> always", "* -> never"])
    [99, 100].each { |rows| Spanring.span("query", rows: rows) {} }
    Spanring.span("set later") { |span| span.set(rows: 100) }
    Spanring.span("mapping", { "priority" => "high" }, other: -> { 7 }) { Spanring.span("child", rows: 1) {} }
    Spanring.start_span("by hand", { priority: :high }).end
    Spanring.start_span("by hand, low", { priority: :low }).end
    assert_equal ["by hand", "child", "mapping", "query"], spans.map(&:name).sort
    assert_equal({ "rows" => 100, "spanring.sampling.rule" => "rows>=100 -> always" }, one("query").attributes)
    assert_equal({ "priority" => "high", "other" => 7, "spanring.sampling.rule" => "priority=high -> always" }, one("mapping").attributes)
  end

  # What makes text of an attribute's value is the program's code.
  def test_the_parent_is_what_is_current_once_the_attributes_are_read
    start(rules: ["value=text -> always", "* -> never"])
    [->(name, attributes) { Spanring.span(name, attributes) {} }, ->(name, attributes) { Spanring.start_span(name, attributes).end }].each do |make|
      open = [Spanring.const_get(:Stack).open(self, nil, "ended meanwhile", nil, nil, nil, nil)]
      value = Object.new
      value.define_singleton_method(:to_s) do
        open.pop.end
        GC.start
        "text"
      end
      make.call("late", { value: value })
    end
    assert_equal [[nil, "text"]] * 2, spans.select { |span| span.name == "late" }.map { |span| [span.parent, span.attributes["value"]] }
  end

  def test_a_span_of_raaf_that_comes_again_while_its_attributes_are_read_is_recorded_once
    start(rules: ["value=text -> always", "* -> never"])
    record = lambda do |value|
      now = Process.clock_gettime(Process::CLOCK_REALTIME, :nanosecond)
      Spanring.send(:_record_raaf, "once", :internal, false, [:unset, nil], "trace_#{"1" * 32}", "span_#{"2" * 24}", nil, now, now, {}, { "value" => value }, [])
    end
    # One that is not recorded may come again.
    assert_nil record.call("other text")
    catch(:out) { record.call(text_by { throw :out }) }
    again = []
    assert_equal true, record.call(text_by { again << record.call("text"); "text" })
    assert_equal [false], again.uniq
    assert_equal false, record.call("text")
    assert_equal ["once"], spans.map(&:name)
  end

  def text_by(&text) = Object.new.tap { |value| value.define_singleton_method(:to_s, &text) }

  def test_a_span_of_level_none_is_as_if_it_were_not_there
    start(levels: "hidden=none")
    Spanring.span("root") do |root|
      Spanring.span("hidden") do |hidden|
        refute hidden.recording?
        assert_equal [root.trace_id, root.span_id], [hidden.trace_id, hidden.span_id]
        Spanring.span("leaf") {}
      end
      Spanring.span("given", nil, nil, nil, :none) { Spanring.span("second leaf", nil, nil, nil, :full) {} }
    end
    found = by_name
    assert_equal ["leaf", "root", "second leaf"], found.keys.sort
    assert_equal [found["root"].span_id] * 2, [found["leaf"].parent, found["second leaf"].parent]
  end

  def test_the_level_and_the_detail_of_a_span
    start
    Spanring.span("root") do
      Spanring.start_span("fine", level: :minimal).end
      failed = Spanring.start_span("failed", level: :minimal)
      failed.status(:error, "why")
      failed.end
      Spanring.start_span("detail", detailed: true).end
      Spanring.change_settings(detailed_tracing: true)
      Spanring.start_span("wanted detail", detailed: true).end
      Spanring.start_span("important", { priority: "high" }, level: :smart).end
    end
    assert_equal ["failed", "important", "root", "wanted detail"], by_name.keys.sort
    error = assert_raises(ArgumentError) { Spanring.start_span("x", level: :most) }
    assert_equal "level must be :none, :minimal, :smart or :full, not :most", error.message
    assert_raises(TypeError) { Spanring.span("x", nil, nil, nil, 3) {} }
  end

  def test_a_traceable_object_has_a_level_of_its_own
    start
    Spanring.span("root") do
      refute Worker.new(:none).run
      assert Worker.new(nil).run
      assert Worker.new(:none).run(tracing_level: :full, "a" => 1)
      refute Worker.new(nil).run(tracing_level: :none)
    end
    assert_equal 3, spans.size
  end

  def test_what_goes_wrong_with_attributes_goes_wrong_before_the_span_starts
    start(rules: "a=1 -> always; * -> never")
    assert_raises(TypeError) { Spanring.span("x", [1]) {} }
    assert_equal(7, catch(:out) { Spanring.span("x", a: 1, b: -> { throw :out, 7 }) { flunk } })
    assert_nil Spanring.current_span
    Spanring.span("after", a: 1) {}
    assert_equal ["after"], spans.map(&:name)
  end
end
