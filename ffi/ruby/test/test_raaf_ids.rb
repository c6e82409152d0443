# frozen_string_literal: true

# RAAF's processor: IDs of spans and traces, and that each span is there once.
require_relative "helper"
require_relative "raaf_spans"
require "spanring/raaf"

class TestRAAFIds < Case
  include RAAFSpans

  def processor(**settings)
    Spanring::RAAF::Processor.new(dir: @place, service_name: "tests", ignore_environment: true, **settings)
  end

  # What becomes of one span.
  def recorded_span(span)
    processor.on_span_end(span)
    spans.first
  end

  HEX32 = "0123456789abcdef0123456789abcdef"

  def test_ids_are_raafs
    trace = SecureRandom.hex(16)
    found = recorded_span(whole(span_id: "span_fedcba9876543210fedcba9876543210", trace_id: "trace_#{trace}", parent_id: "span_aaaaaaaaaaaaaaaabbbbbbbbbbbbbbbb"))
    assert_equal [trace, "fedcba9876543210", "aaaaaaaaaaaaaaaa"], [found.trace_id, found.span_id, found.parent]
    assert_equal({ "openai.span_id" => "span_fedcba9876543210fedcba9876543210", "openai.parent_id" => "span_aaaaaaaaaaaaaaaabbbbbbbbbbbbbbbb" },
                 found.attributes.select { |name, _| name.match?(/\Aopenai.*_id/) })
  end

  def test_ids_that_the_sink_makes_itself_are_not_said
    trace = SecureRandom.hex(16)
    found = recorded_span(whole(span_id: "span_fedcba987654321000000000", trace_id: "trace_#{trace}", parent_id: "span_aaaaaaaaaaaaaaaa00000000"))
    assert_equal [trace, "fedcba9876543210", "aaaaaaaaaaaaaaaa"], [found.trace_id, found.span_id, found.parent]
    assert_empty(found.attributes.keys.grep(/_id/))
  end

  def test_ids_of_other_forms_are_the_same_in_every_process
    ids = ["my trace", "span_short", "", "trace_#{"0" * 32}", "TRACE_#{HEX32}", "trace_#{HEX32.upcase}", "trace_#{"z" * 32}", "é" * 50]
    text = <<~RUBY
      require "spanring/raaf"
      require #{File.expand_path("raaf_spans", __dir__).inspect}
      processor = Spanring::RAAF::Processor.new(dir: PLACE, ignore_environment: true)
      #{ids.inspect}.each_with_index do |id, at|
        processor.on_span_end(RAAFSpans.bare(name: "parent \#{at}", span_id: "root \#{id}", trace_id: id))
        processor.on_span_end(RAAFSpans.bare(name: "child \#{at}", span_id: "child \#{id}", trace_id: id, parent_id: "root \#{id}"))
      end
      raise processor.stats.inspect unless processor.stats[:recorded] == 16
    RUBY
    2.times { script(text) }
    found = Recorded.read(@place).group_by(&:name)
    ids.each_with_index do |id, at|
      parents, children = found.fetch("parent #{at}"), found.fetch("child #{at}")
      next if id.empty? # nothing to go by

      assert_equal 1, [*parents, *children].map(&:trace_id).uniq.size
      assert_equal 1, [*parents.map(&:span_id), *children.map(&:parent)].uniq.size
      assert_equal({ "openai.trace_id" => id, "openai.span_id" => "child #{id}", "openai.parent_id" => "root #{id}" },
                   children[0].attributes.select { |name, _| name.match?(/\Aopenai.*_id/) })
      assert_equal HEX32, parents[0].trace_id if id == "trace_#{HEX32.upcase}"
    end
    assert_equal ids.size, found.values.flat_map { |spans| spans.map(&:trace_id) }.uniq.size - 3 # without a trace ID, each has its own
  end

  def test_one_id_of_two_is_kept
    processor = processor()
    processor.on_span_end(bare(name: "no span", span_id: nil, trace_id: "trace_#{HEX32}", parent_id: "span_#{"a" * 16}00000000"))
    processor.on_span_end(bare(name: "no trace", span_id: "span_#{"b" * 16}00000000", trace_id: nil))
    found = by_name.transform_values { |span| span.attributes.values_at("openai.trace_id", "openai.span_id", "openai.parent_id") }
    assert_equal({ "no span" => ["trace_#{HEX32}", nil, "span_#{"a" * 16}00000000"], "no trace" => [nil, "span_#{"b" * 16}00000000", nil] }, found)
  end

  def test_children_of_a_trace_have_no_parent_at_openai
    processor = processor()
    trace = { trace_id: "trace_#{SecureRandom.hex(16)}" }
    processor.on_span_start(whole(**trace, kind: :trace, span_id: "span_#{"a" * 32}", end_time: nil))
    processor.on_span_end(bare(**trace, name: "early", parent_id: "span_#{"a" * 32}"))
    processor.on_span_end(bare(**trace, name: "second", span_id: "span_#{"b" * 32}", parent_id: "span_#{"a" * 32}"))
    processor.on_span_end(bare(**trace, name: "below", parent_id: "span_#{"b" * 32}"))
    processor.on_span_end(whole(**trace, name: "trace", kind: :trace, span_id: "span_#{"a" * 32}"))
    processor.on_span_end(bare(**trace, name: "other", kind: :trace, span_id: "span_#{"c" * 32}"))
    processor.on_span_end(bare(**trace, name: "late", parent_id: "span_#{"c" * 32}"))
    processor.on_span_end(bare(trace_id: "trace_#{"9" * 32}", name: "elsewhere", parent_id: "span_#{"a" * 32}"))
    found = by_name
    assert_equal({ "early" => "", "second" => "", "below" => "span_#{"b" * 32}", "trace" => nil, "other" => nil, "late" => "", "elsewhere" => "span_#{"a" * 32}" },
                 found.transform_values { |span| span.attributes["openai.parent_id"] })
    assert_equal %w[aaaaaaaaaaaaaaaa cccccccccccccccc], found.values_at("early", "late").map(&:parent)
  end

  def test_the_memory_of_traces_is_bounded
    processor = processor(max_spans: 100_000, batch_size: 512)
    20_000.times { |number| processor.on_span_start(whole(kind: :trace, trace_id: "trace #{number}", span_id: "root")) }
    processor.on_span_start(whole(kind: :trace, trace_id: "trace last", span_id: "root"))
    processor.on_span_end(bare(trace_id: "trace last", parent_id: "root", name: "child"))
    assert_equal "", one("child").attributes["openai.parent_id"]
  end

  # SpanTracer tells its own processors and the provider's, which may be the same; a span may end twice, or come by export as well.
  def test_a_span_is_recorded_once
    processor = processor()
    ones = Array.new(50) { |number| bare(name: "span #{number}") }
    ones.each { |span| 2.times { processor.on_span_end(span) } }
    processor.export(ones)
    assert_equal [50, 100], processor.stats.values_at(:recorded, :repeated)
    assert_equal 50, spans.size
  end

  def test_a_trace_is_sampled_as_a_whole
    processor = processor(sampler: "parentbased_traceidratio", sampler_arg: 0.5, max_spans: 10_000)
    100.times do
      trace, root = "trace_#{SecureRandom.hex(16)}", "span_#{SecureRandom.hex(16)}"
      3.times { processor.on_span_end(bare(trace_id: trace, parent_id: root)) }
      processor.on_span_end(bare(trace_id: trace, span_id: root))
    end
    traces = spans.group_by(&:trace_id)
    assert_includes 20..80, traces.size
    assert(traces.values.all? { |found| found.size == 4 })
    assert_equal 400 - 4 * traces.size, processor.stats[:unrecorded]
  end
end
