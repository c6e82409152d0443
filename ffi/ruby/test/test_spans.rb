# frozen_string_literal: true

require_relative "helper"
require "bigdecimal"
require "logger"
require "set"
require "stringio"

class TestSpans < Case
  def test_a_block_is_a_span_with_its_attributes
    start
    span = nil
    value = Spanring.span("db.query", rows: 7, system: "postgresql") do |given|
      span = given
      assert span.recording?
      assert_same span, Spanring.current_span
      :value
    end
    assert_equal :value, value
    assert_nil Spanring.current_span
    refute span.recording?
    found = one("db.query")
    assert_equal [span.trace_id, span.span_id], [found.trace_id, found.span_id]
    assert_equal({ "rows" => 7, "system" => "postgresql" }, found.attributes)
    assert_nil found.parent
    assert_equal %w[tests ruby], found.resource.values_at("service.name", "telemetry.sdk.language")
    assert_equal 0, found.status.fetch("code", 0)
  end

  def test_spans_in_a_block_are_children
    start
    Spanring.span("root") do
      Spanring.span(:first) { Spanring.span("below") {} }
      Spanring.span("second") {}
    end
    Spanring.span("other") {}
    found = by_name
    root = found["root"]
    assert_equal [root.span_id] * 2, [found["first"].parent, found["second"].parent]
    assert_equal found["first"].span_id, found["below"].parent
    assert_equal [root.trace_id], %w[root first below second].map { |name| found[name].trace_id }.uniq
    assert_nil found["other"].parent
    refute_equal root.trace_id, found["other"].trace_id
  end

  def test_children_may_begin_after_their_parent_ended
    start
    parent = nil
    Spanring.span("parent") { |span| parent = span }
    Spanring.span("late", nil, nil, parent) {}
    by_hand = Spanring.start_span("by hand")
    by_hand.end
    Spanring.attach(by_hand) { Spanring.span("later") {} }
    found = by_name
    assert_equal found["parent"].span_id, found["late"].parent
    assert_equal found["by hand"].span_id, found["later"].parent
  end

  def test_without_a_block
    start
    span = Spanring.span("by hand", { "a.b" => 1 }, :client, c: 2)
    assert_nil Spanring.current_span
    assert_equal(:value, Spanring.attach(span) do
      assert_same span, Spanring.current_span
      Spanring.span("child") {}
      :value
    end)
    span.end
    span.finish
    span.set(too: 1)
    found = by_name
    assert_equal({ "a.b" => 1, "c" => 2 }, found["by hand"].attributes)
    assert_equal 3, found["by hand"].kind
    assert_equal found["by hand"].span_id, found["child"].parent
  end

  def test_a_span_that_ended_in_its_block_is_left_as_usual
    start
    Spanring.span("once") do |span|
      span.end
      Spanring.span("child") {}
    end
    assert_nil Spanring.current_span
    found = by_name
    assert_equal found["once"].span_id, found["child"].parent
  end

  def test_times_that_are_past
    start
    span = Spanring.start_span("past", { a: 1 }, kind: :server, parent: nil, start_time: Time.at(1_000_000_000, 5, :nsec))
    span.event_at(Time.at(1_000_000_001), "event", b: 2)
    span.end_at(1_000_000_002_000_000_007)
    found = one("past").raw
    assert_equal %w[1000000000000000005 1000000002000000007], found.values_at("startTimeUnixNano", "endTimeUnixNano")
    assert_equal "1000000001000000000", found["events"][0]["timeUnixNano"]
    assert_equal 2, found["kind"]
    [-1, Time.at(-1), 1.5, "now", 1 << 64, Time.at(1 << 40)].each do |wrong|
      assert_raises(ArgumentError, TypeError, RangeError) { Spanring.start_span("x", start_time: wrong) }
    end
  end

  class Text < String; end

  class Shown
    def to_s = "shown"
  end

  class Broken
    def to_s = raise(ArgumentError, "no text")
  end

  class NoText
    def to_s = 7
  end

  class Bare < BasicObject; end

  class Ghost < BasicObject
    def method_missing(name, *) = name == :to_s ? "ghost" : super
    def respond_to_missing?(*) = true
  end

  Pair = Struct.new(:left, :right)

  ENDLESS = "nested"
  LONG = "x" * 100_000

  VALUES = [
    ["text", "text"],
    ["", ""],
    ["ä€𝄞", "ä€𝄞"],
    ["a\0b", "a\0b"],
    [+"unfrozen", "unfrozen"],
    [:symbol, "symbol"],
    [:"odd symbol é", "odd symbol é"],
    [Text.new("sub"), "sub"],
    [true, true],
    [false, false],
    [nil, nil],
    [0, 0],
    [-1, -1],
    [2**62, 2**62],
    [-(2**62) - 1, -(2**62) - 1],
    [2**63 - 1, 2**63 - 1],
    [-(2**63), -(2**63)],
    [2**63, (2**63).to_s],
    [2**64 - 1, (2**64 - 1).to_s],
    [-(2**63) - 1, (-(2**63) - 1).to_s],
    [-(2**70), (-(2**70)).to_s],
    [1.5, 1.5],
    [1e300, 1e300],
    [Rational(1, 3), "1/3"],
    [BigDecimal("1234567890.123456789"), "1234567890.123456789"],
    [BigDecimal("NaN"), "NaN"],
    [Time.utc(2026, 1, 2, 3, 4, 5 + Rational(6, 1_000_000_000)), "2026-01-02T03:04:05.000000006+00:00"],
    ["binary \xFF\x00".b, "binary \xFF\x00".b],
    ["text all the same é".b, "text all the same é"],
    ["broken \xFF here", "broken \uFFFD here"],
    ["latin \xE9".dup.force_encoding("ISO-8859-1"), "latin é"],
    ["utf-16 é".encode("UTF-16LE"), "utf-16 é"],
    ["\x00\xD8x".dup.force_encoding("UTF-16LE"), nil],
    ["dummy \xFF".dup.force_encoding("UTF-7"), nil],
    [[], []],
    [[1, "two", nil, [3.5, [true]], :four], [1, "two", nil, [3.5, [true]], "four"]],
    [{}, {}],
    [{ "a" => { b: [1] }, 2 => "two", nil => 3 }, { "a" => { "b" => [1] }, "2" => "two", "" => 3 }],
    [Shown.new, "shown"],
    [[Shown.new], ["shown"]],
    [Broken.new, "ArgumentError: no text"],
    [[Broken.new], ["ArgumentError: no text"]],
    [{ Broken.new => 1 }, { "ArgumentError: no text" => 1 }],
    [Ghost.new, "ghost"],
    [String, "String"],
    [1..2, "1..2"],
    [Pair.new(1, 2), Pair.new(1, 2).to_s],
    [-> { 7 }, 7],
    [proc { [1] }, [1]],
    [7.method(:to_s), "7"],
    [[-> { 7 }], [7]],
    [-> { 1 / 0 }, "ZeroDivisionError: divided by 0"],
    [-> { raise "" }, "RuntimeError"],
    [-> { raise NotImplementedError, "later" }, "NotImplementedError: later"],
    [->(needed) { needed }, "ArgumentError: wrong number of arguments (given 0, expected 1)"],
    [LONG, LONG],
    [["x" * 50] * 200, ["x" * 50] * 200],
    [("a".."z").to_h { |key| [key, key * 100] }, ("a".."z").to_h { |key| [key, key * 100] }],
  ].freeze

  VALUES.each_with_index do |(given, expected), index|
    define_method("test_value_#{index}") do
      start
      Spanring.span("value", before: 1, it: given, after: "after") do |span|
        span.set_attribute(:again, given)
        span["once more"] = given
        span.set({ "by.hash" => given })
        span.event("event", it: given)
      end
      found = one("value")
      expected = found.attributes["it"] if expected.nil? && !given.nil?
      assert_equal({ "before" => 1, "it" => expected, "after" => "after", "again" => expected, "once more" => expected, "by.hash" => expected },
                   found.attributes)
      assert_equal expected.class, found.attributes["it"].class
      assert_equal [["event", { "it" => expected }]], found.events
    end
  end

  def test_objects_that_say_nothing_are_named
    start
    Spanring.span("value", bare: Bare.new, none: NoText.new) {}
    found = one("value").attributes
    assert_match(/\A#<TestSpans::Bare/, found["bare"])
    assert_match(/\A#<TestSpans::NoText/, found["none"])
  end

  def test_an_error_whose_message_fails
    start
    broken = Class.new(StandardError) { def message = raise("no message") }
    latin = Class.new(StandardError) { def message = "é".encode("UTF-16LE") }
    Spanring.span("value", it: -> { raise broken }, latin: -> { raise latin }) {}
    found = one("value").attributes
    assert_match(/\A#<Class/, found["it"])
    assert_match(/\A#<Class/, found["latin"])
  end

  def test_structures_that_hold_themselves_end
    start
    endless = []
    endless << endless
    wide = ["x"]
    40.times { wide = [wide] * 3 }
    holder = {}
    holder[:it] = holder
    Spanring.span("value", endless: endless, wide: wide, holder: holder, after: 1) {}
    assert_equal 1, one("value").attributes["after"]
  end

  def test_structures_that_change_while_they_are_read
    start
    changing = []
    changing.push(-> { changing.clear; "emptied" }, 1, 2)
    hash = { first: -> { hash.delete(:second); hash[:third] = 3 }, second: 2 }
    Spanring.span("value", it: changing, hash: hash) {}
    found = one("value").attributes
    assert_equal ["emptied"], found["it"]
    assert_match(/can't add a new key/, found["hash"]["first"])
  end

  def test_an_attribute_is_not_changed
    start
    text = +"broken \xFF"
    hash = { "a" => [text] }.freeze
    Spanring.span("value", hash: hash, text: text) {}
    assert_equal "broken \xFF", text
    assert_equal Encoding::UTF_8, text.encoding
  end

  def test_lazy_values_are_computed_only_for_spans_that_record
    start
    calls = 0
    lazy = -> { calls += 1 }
    Spanring.span("records", it: lazy) {}
    assert_equal 1, calls
    # Not sampled: its parent is not.
    headers = { "traceparent" => "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00" }
    kept = nil
    Spanring.attach(headers) do
      Spanring.span("does not", it: lazy) do |span|
        kept = span
        span.set(it: lazy)
        span.event("event", it: lazy)
        refute span.recording?
        refute span.sampled?
        Spanring.span("below", it: lazy) { |below| assert_equal "0af7651916cd43dd8448eb211c80319c", below.trace_id }
      end
    end
    kept.set(it: lazy)
    assert_equal 1, calls
    assert_equal ["records"], by_name.keys
  end

  def test_a_lazy_value_may_have_spans_of_its_own
    start
    Spanring.span("outer", it: -> { Spanring.span("inner", it: -> { 2 }) { 1 } }) {}
    found = by_name
    assert_equal({ "it" => 1 }, found["outer"].attributes)
    assert_equal({ "it" => 2 }, found["inner"].attributes)
  end

  def test_the_slowest_values_are_named
    start
    Spanring.span("slow", quick: -> { 1 }, "slow.one" => -> { [1].cycle.first(200_000).sum }) {}
    found = Spanring.slowest_values.to_h
    assert_operator found["slow.one"], :>, found.fetch("quick", 0)
    assert_equal found.values.sort.reverse, found.values
    assert_operator found.size, :<=, 10
  end

  def test_what_stops_the_program_is_no_value
    start
    [Interrupt, SystemExit, SignalException.new("TERM")].each do |error|
      interrupted = -> { raise error }
      assert_raises(SystemExit, SignalException) { Spanring.span("interrupted", it: interrupted) { flunk } }
      assert_raises(SystemExit, SignalException) { Spanring.start_span("by hand", { it: interrupted }) }
      Spanring.span("goes on") do |span|
        [-> { span.set(it: interrupted) }, -> { span.set_attribute(:it, [interrupted]) }, -> { span.event("event", it: interrupted) },
         -> { span.link(span, it: interrupted) }, -> { span.record_exception(IOError.new, it: interrupted) }].each do |call|
          assert_raises(SystemExit, SignalException, &call)
        end
        assert_same span, Spanring.current_span
      end
    end
    assert_equal(:thrown, catch(:out) { Spanring.span("thrown", it: -> { throw :out, :thrown }) { flunk } })
    assert_nil Spanring.current_span
    found = spans
    assert_equal({ "interrupted" => 3, "goes on" => 3, "thrown" => 1 }, found.reject { |span| span.name == "by hand" }.map(&:name).tally)
    assert(found.all? { |span| span.attributes.empty? && span.events.empty? && span.status.fetch("code", 0).zero? })
  end

  def test_more_keys_and_names_than_the_engine_has_numbers
    start
    keys = (0...20_000).map { |number| "key#{number}".freeze }
    3.times { keys.each { |key| Spanring.span("many", { key => key }) {} } }
    3.times { keys.last(10).each { |key| Spanring.span(key, { key => 1 }) {} } }
    symbols = (0...2000).map { |number| "symbol #{number}".to_sym }
    2.times { symbols.each { |symbol| Spanring.span(symbol, symbol => symbol) {} } }
    found = spans
    assert_equal 64_030, found.size
    assert(found.first(60_000).zip(keys * 3).all? { |span, key| span.attributes == { key => key } })
    assert(found.last(4000).zip(symbols * 2).all? { |span, symbol| span.name == symbol.name && span.attributes == { symbol.name => symbol.name } })
  end

  def test_a_name_that_changes_is_read_anew
    start
    name = +"first"
    3.times { Spanring.span(name, { name => 1 }) {} }
    name.replace("second")
    3.times { Spanring.span(name, { name => 1 }) {} }
    assert_equal({ "first" => 3, "second" => 3 }, spans.map(&:name).tally)
  end

  def test_events_links_status_and_names
    start
    other = Spanring.start_span("other")
    other.end
    Spanring.span("first name", nil, :server) do |span|
      assert_same span, span.rename("name")
      span.event("plain").event(:with, { "a.b" => 1 }, c: [2])
      span.link(other, why: "because").link(other.context)
      span.link(Spanring.extract({}))
      span.status(:error, "it is wrong")
      span.critical
    end
    Spanring.span("fine") { |span| span.status(:ok).status("error", "too late") }
    found = by_name
    assert_equal 2, found["name"].kind
    assert_equal [["plain", {}], ["with", { "a.b" => 1, "c" => [2] }]], found["name"].events
    assert_equal [[other.trace_id, other.span_id, { "why" => "because" }], [other.trace_id, other.span_id, {}]], found["name"].links
    assert_equal({ "code" => 2, "message" => "it is wrong" }, found["name"].status)
    assert_equal({ "code" => 1 }, found["fine"].status)
  end

  def test_wrong_types_say_so
    start
    span = Spanring.start_span("span")
    [-> { Spanring.span(7) {} }, -> { Spanring.span }, -> { Spanring.span("a", 7) {} }, -> { Spanring.span("a", nil, 7) {} },
     -> { Spanring.span("a", nil, :odd) {} }, -> { Spanring.span("a", nil, nil, 7) {} }, -> { Spanring.span("a", nil, nil, nil, nil, nil) {} },
     -> { Spanring.span("a", { 1 => 2 }) { flunk } }, -> { Spanring.start_span("a", colour: 1) }, -> { span.set(7) },
     -> { span.set_attribute(7, 1) }, -> { span.event(7) }, -> { span.link(7) }, -> { span.status(7) }, -> { span.status(:odd) },
     -> { span.status(:ok, 7) }, -> { span.rename(7) }, -> { span.record_exception("x") }, -> { span.end_at("x") },
     -> { Spanring.attach(7) {} }, -> { Spanring.attach(nil) }, -> { Spanring.inject({}, 7) }, -> { Spanring.extract("x") },
     -> { Spanring.flush(-1) }, -> { Spanring.flush("x") }].each_with_index do |wrong, at|
      assert_raises(TypeError, ArgumentError, "call #{at}", &wrong)
      assert_nil Spanring.current_span
    end
    [Spanring::Span, Spanring::Context].each { |type| assert_raises(NoMethodError) { type.new } }
    assert_raises(TypeError) { span.dup }
    assert_raises(TypeError) { Marshal.dump(span) }
  end

  def test_without_a_pipeline_everything_works_and_records_nothing
    calls = 0
    assert_equal 7, (Spanring.span("span", it: -> { calls += 1 }) { |span| span.set(a: 1).event("e"); 7 })
    assert_equal 0, calls
    Spanring.flush
    assert_raises(IOError) { Spanring.span("span") { raise IOError } }
  end

  def test_settings_by_keyword_and_block
    Spanring.start(dir: @place, ignore_environment: true) do |settings|
      settings.service_name = "block"
      settings[:max_spans] = 1000
      settings.resource_attributes = { "a b" => "c,d=é" }
      assert_equal "block", settings.service_name
      assert_raises(NoMethodError) { settings.nothing }
    end
    Spanring.span("span") {}
    found = one("span").resource
    assert_equal %w[block c,d=é], found.values_at("service.name", "a b")
    error = assert_raises(Spanring::Error) { start }
    assert_equal 6, error.code
    Spanring.shutdown(30)
    assert_raises(Spanring::Error) { Spanring.start(nothing: 1, ignore_environment: true) }
    assert_raises(TypeError) { Spanring.start(dir: Object.new) }
    text = ->(value) { Spanring::Settings.text("x", value) }
    assert_equal ["0.1", "5", "true", "a,1", "/tmp"], [0.1, 5.0, true, ["a", 1], Pathname("/tmp")].map(&text)
  end

  def test_the_environment_is_read_at_the_start_and_wins
    ENV["SPANRING_SERVICE_NAME"] = nil
    ENV["OTEL_SERVICE_NAME"] = "operator"
    Spanring.start(dir: @place, service_name: "code")
    ENV["OTEL_SERVICE_NAME"] = "too late"
    Spanring.span("span") {}
    assert_equal "operator", one("span").resource["service.name"]
  ensure
    ENV.delete("OTEL_SERVICE_NAME")
  end

  def test_stats_and_messages
    start
    3.times { Spanring.span("span") {} }
    Spanring.flush(30)
    assert_equal [3, 3], Spanring.stats.values_at("created", "sealed")
    assert_kind_of Array, Spanring.messages
    Spanring.shutdown(30)
    ENV["SPANRING_MAX_SPANS"] = "many"
    Spanring.start(dir: @place)
    message = Spanring.messages.find { |found| found.text.include?("MAX_SPANS") }
    assert_equal :warn, message.severity
  ensure
    ENV.delete("SPANRING_MAX_SPANS")
  end

  def test_log_fields
    start
    out = StringIO.new
    logger = Logger.new(out)
    logger.formatter = Spanring::LogFormatter.new
    assert_equal({}, Spanring.log_fields)
    logger.info("outside")
    Spanring.span("span") do |span|
      assert_equal({ trace_id: span.trace_id, span_id: span.span_id }, Spanring.log_fields)
      logger.info("inside")
      logger.info(nil)
      logger.error(IOError.new("wrong"))
      assert_includes out.string, "-- : trace_id=#{span.trace_id} span_id=#{span.span_id} inside"
    end
    assert_includes out.string, "-- : outside"
    assert_includes out.string, "wrong (IOError)"
    assert_equal 3, out.string.scan("trace_id=").size
  end

  def test_settings_that_change_while_the_program_runs
    start
    Spanring.change_settings(sampler: "always_off", flush_interval: 0.5)
    Spanring.span("no") { |span| refute span.recording? }
    found = Spanring.settings
    assert_equal ["always_off", "live", true], found[:sampler].values_at("value", "source", "live")
    assert_equal ["0.5", false], [found[:flush_interval]["value"], found[:dir]["live"]]
    [[{ batch_size: 5, sampler: "maybe" }, /is not a sampler/], [{ dir: "x" }, /cannot change while the program runs/]].each do |wrong, said|
      assert_match said, assert_raises(Spanring::Error) { Spanring.change_settings(**wrong) }.message
    end
    assert_raises(TypeError) { Spanring.change_settings(batch_size: Object.new) }
    Spanring.change_settings(sampler: nil)
    Spanring.span("yes") {}
    assert_equal %w[default default], Spanring.settings.values_at(:sampler, :batch_size).map { |row| row["source"] }
    assert_equal ["yes"], spans.map(&:name)
  end

  def test_overhead_runs_the_block_untraced_and_traced_in_turn
    start
    recorded = []
    found = Spanring.overhead(rounds: 3) { Spanring.span("work") { |span| recorded << span.recording? } }
    assert_equal [false, true, false, true, true, false, false, true], recorded
    assert_equal 3, found.rounds
    assert_operator found.baseline, :>, 0
    assert_match(/\Auntraced .* 3 rounds/, found.to_s)
    assert_raises(ZeroDivisionError) { Spanring.overhead { 1 / 0 } }
    assert_raises(ArgumentError) { Spanring.overhead }
    Spanring.span("afterwards") { |span| assert span.recording? }
    known = Spanring::Overhead.new(1, 10.0, 11.0, 1.0, 0.5)
    assert_equal [10.0, true], [known.percent, known.measurable?]
  end

  def test_a_priority_that_is_critical_leaves_at_once
    start(flush_interval: 3600)
    Spanring.span("usual", priority: "high") { nil }
    Spanring.span("now", priority: "critical") { nil }
    # With the interval alone it would take an hour.
    deadline = Process.clock_gettime(Process::CLOCK_MONOTONIC) + 60
    while Spanring.stats["sealed"] < 2
      assert_operator Process.clock_gettime(Process::CLOCK_MONOTONIC), :<, deadline
      sleep 0.001
    end
  end

  def test_metrics_and_health
    start(metrics: true)
    10.times do
      assert_raises(ArgumentError) { Spanring.span("buy") { raise ArgumentError } }
      Spanring.span("buy") {}
    end
    Spanring.flush
    found = Spanring.metrics
    series = found["spans"]["series"].find { |one| one["name"] == "buy" }
    assert_equal [20, 10, 20], [*series.values_at("count", "errors"), found["engine"]["created"]]
    health = Spanring.health
    assert_equal [true, 1, 0.5, false], health.values_at("tracing_enabled", "processors_count", "error_rate", "healthy")
    assert_match(/error/, health["reasons"].first)
  end
end
