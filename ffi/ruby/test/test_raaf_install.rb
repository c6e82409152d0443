# frozen_string_literal: true

require_relative "helper"
require_relative "raaf_stand_in"
require "spanring/raaf"

class TestRAAFInstall < Case
  Tracing = RAAF::Tracing

  # Keeps what RAAF hands to its processors.
  class Seen
    attr_reader :begun, :ended, :flushed

    def initialize
      @begun, @ended, @flushed = [], [], 0
    end

    def on_span_start(span) = @begun << span
    def on_span_end(span) = @ended << span
    def force_flush = @flushed += 1
  end

  class SupportAgent
    include Tracing::Traceable
    attr_accessor :parent_component, :tracer

    def run(&block) = with_tracing(:run, &block)
  end

  class ModelAgent
    include Tracing::Traceable

    def collect_span_attributes = super.merge!("agent.model" => "gpt-4o", "agent.name" => "Support")
    def collect_result_attributes(result) = super.merge("agent.output" => result)
  end

  class SearchTool
    include Tracing::Traceable
    trace_as :tool
  end

  def setup
    super
    start
    Tracing::TraceProvider.instance = nil
    Tracing.configuration = nil
    @seen = Seen.new
    Tracing.add_trace_processor(@seen)
    Spanring::RAAF.install!
    @agent = SupportAgent.new
  end

  def names = spans.map { |span| span.name.delete_prefix("run.workflow.") }

  def test_names_kinds_and_attributes
    assert_equal "found", @agent.with_tracing(:answer, customer: 7) { "found" }
    ModelAgent.new.with_tracing(:run) { "the answer" }
    @agent.with_tracing(:llm_call, "llm.request.model": "gpt-4o", "llm.usage.input_tokens" => 12) { nil }
    @agent.with_tracing(:execute_tool, tool_name: "search") { nil }
    @agent.with_tracing(:run, agent_name: "Other") { nil }
    answer, model, llm, tool, named = spans
    assert_equal({ "raaf.kind" => "agent", "openinference.span.kind" => "AGENT", "openai.span.type" => "agent",
                   "gen_ai.operation.name" => "invoke_agent", "component.type" => "agent", "component.name" => "TestRAAFInstall::SupportAgent",
                   "customer" => 7, "result.type" => "String", "result.success" => true, "success" => true },
                 answer.attributes.except("duration_ms"))
    assert_operator answer.attributes["duration_ms"], :>=, 0
    assert_equal 1, answer.status["code"]
    assert_equal ["gpt-4o", "Support", "the answer", "text/plain"],
                 model.attributes.values_at("gen_ai.request.model", "gen_ai.agent.name", "output.value", "output.mime_type")
    assert_equal ["LLM", 12, "gpt-4o", 3], [*llm.attributes.values_at("openinference.span.kind", "gen_ai.usage.input_tokens", "gen_ai.request.model"), llm.kind]
    assert_equal %w[TOOL search], tool.attributes.values_at("openinference.span.kind", "gen_ai.tool.name")
    assert_equal ["agent.TestRAAFInstall::SupportAgent.answer", "agent.TestRAAFInstall::ModelAgent", "llm.completion", "tool.search.execute_tool",
                  "agent.Other"], [answer, model, llm, tool, named].map { |span| span.name.delete_prefix("run.workflow.") }
  end

  def test_span_naming_is_raafs
    Tracing.span_naming_config = Object.new.tap { |config| def config.build_name(*parts) = parts.compact.join("/") }
    @agent.run {}
    assert_equal ["agent/TestRAAFInstall::SupportAgent/run"], names
  ensure
    Tracing.span_naming_config = nil
  end

  def test_hooks_are_called_as_raaf_calls_them
    order = []
    @agent.define_singleton_method(:collect_span_attributes) { order << [:before, current_span[:attributes].dup]; { a: 1, b: 1 } }
    @agent.define_singleton_method(:collect_result_attributes) { |result| order << [:after, result]; { d: 4 } }
    @agent.with_tracing(:answer, b: 2) { order << [:block, @agent.current_span[:attributes].dup]; :result }
    assert_equal [:before, :block, :after], order.map(&:first)
    assert_equal({ a: 1, b: 2 }, order[1][1])
    assert_equal :result, order[2][1]
    assert_equal [1, 2, 4], one("run.workflow.agent.TestRAAFInstall::SupportAgent.answer").attributes.values_at("a", "b", "d")
    assert_equal({ a: 1, b: 2, d: 4 }, @seen.ended.first.attributes.slice(:a, :b, :d))
  end

  def test_what_the_host_says_is_copied_at_that_moment
    said = { "a" => 1 }
    @agent.define_singleton_method(:collect_span_attributes) { said }
    @agent.run { said["a"] = 2 }
    assert_equal 1, spans.first.attributes["a"]
    assert_equal({ "a" => 2 }, said)
  end

  def test_an_error_of_a_hook_is_the_hosts_as_before
    @agent.define_singleton_method(:collect_result_attributes) { |_| raise "hook" }
    assert_equal("hook", assert_raises(RuntimeError) { @agent.run {} }.message)
    assert_equal 2, spans.first.status["code"]
  end

  def test_an_open_span_of_the_same_component_and_method_goes_on
    @agent.with_tracing(:answer, a: 1) do
      open = @agent.current_span
      @agent.with_tracing(:answer, b: 2) { assert_same open, @agent.current_span }
      @agent.with_tracing(nil) { assert_same open, @agent.current_span }
      @agent.with_tracing("run") { assert_same open, @agent.current_span } # as all names begin with run
      @agent.with_tracing(:other) { refute_same open, @agent.current_span }
      SupportAgent.new.with_tracing(:answer) {}
    end
    refute @agent.traced?
    assert_equal ["agent.TestRAAFInstall::SupportAgent.answer", "agent.TestRAAFInstall::SupportAgent.other",
                  "agent.TestRAAFInstall::SupportAgent.answer"], names
    assert_equal [1, 2], spans.first.attributes.values_at("a", "b")
  end

  def test_current_span_is_a_hash_whose_changes_count
    @agent.run do
      span = @agent.current_span
      assert_kind_of Hash, span
      assert_equal [:agent, :ok, []], span.values_at(:kind, :status, :events)
      assert_equal @agent.trace_id, span[:trace_id]
      assert_match(/\Aspan_\h{24}\z/, span[:span_id])
      assert_nil span[:parent_id]
      span[:attributes]["late"] = 1
      span[:events] << { name: "cached", timestamp: Time.now.utc.iso8601, attributes: { by: "redis" } }
    end
    found = spans.first
    assert_equal [1, "String"], [found.attributes["late"], found.attributes["component.type"].class.name]
    assert_equal [["cached", { "by" => "redis" }]], found.events
    assert_equal({ "late" => 1 }, @seen.ended.first.attributes.slice("late"))
    assert_equal ["trace_#{found.trace_id}", "span_#{found.span_id}00000000"], [@seen.ended.first.trace_id, @seen.ended.first.span_id]
  end

  def test_errors_go_on_and_are_recorded
    error = assert_raises(ArgumentError) { @agent.run { raise ArgumentError, "no" } }
    assert_equal "no", error.message
    found = spans.first
    assert_equal [false, "ArgumentError", "no"], found.attributes.values_at("success", "error.type", "error.message")
    assert_equal [2, "no"], found.status.values_at("code", "message")
    assert_equal "ArgumentError", found.events.first[1]["exception.type"]
    assert_equal [[:error, false]], (@seen.ended.map { |span| [span.status, span.attributes["success"]] })
    assert_equal 1, @seen.flushed
    refute @agent.traced?
  end

  def test_however_the_block_is_left_the_span_ends
    catch(:out) { @agent.with_tracing(:throw) { throw :out } }
    [1].each { @agent.with_tracing(:break) { break } }
    assert_raises(Timeout::Error) { Timeout.timeout(0.05) { @agent.with_tracing(:timeout) { sleep } } }
    Thread.new { @agent.with_tracing(:kill) { Thread.current.kill } }.join
    assert_nil Spanring.current_span
    assert_equal %w[break kill throw timeout], names.map { |name| name[/\w+\z/] }.sort
    # Ruby 3.3's Timeout is an error here.
    others = spans.reject { |span| span.name.end_with?("timeout") }
    assert_equal [[0, nil, "agent"]], others.map { |span| [span.status.fetch("code", 0), *span.attributes.values_at("success", "component.type")] }.uniq
    assert_empty @seen.ended.reject { |span| span.name.end_with?("timeout") }
  end

  def test_parents_that_are_given
    tool = SearchTool.new
    child = SupportAgent.new
    child.parent_component = @agent
    @agent.with_tracing(:outer) do
      @agent.with_tracing(:inner) { child.with_tracing(:own) {} }
      tool.with_tracing(:explicit, parent_component: @agent) {}
      copy = @agent.current_span.slice(:trace_id, :span_id)
      Thread.new { tool.with_tracing(:copied, parent_component: copy) {} }.join
      Tracing::ToolIntegration.with_agent_context(@agent) do
        SearchTool.new.with_tracing(:first) { SearchTool.new.with_tracing(:second) {} }
        @agent.with_tracing(:deeper, parent_component: tool) { SearchTool.new.with_tracing(:original) {} }
      end
    end
    found = spans.to_h { |span| [span.name[/\w+\z/].to_sym, span] }
    outer = found[:outer]
    assert_equal found[:inner].span_id, found[:own].parent
    %i[inner explicit copied first second original].each { |name| assert_equal [outer.span_id, outer.trace_id], [found[name].parent, found[name].trace_id], name }
    seen = @seen.ended.to_h { |span| [span.name[/\w+\z/].to_sym, span] }
    assert_equal [seen[:outer].span_id, seen[:outer].trace_id], [seen[:explicit].parent_id, seen[:explicit].trace_id]
  end

  def test_without_a_parent_it_is_the_span_around
    Spanring.span("request") { @agent.run { SearchTool.new.with_tracing(:call) { Spanring.span("query") {} } } }
    request, agent, tool, query = spans
    assert_equal [request.span_id, agent.span_id, tool.span_id], [agent, tool, query].map(&:parent)
  end

  def test_a_parent_from_a_request
    context = Spanring.extract("traceparent" => "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01")
    Spanring.attach(context) { @agent.run {} }
    Spanring.attach(nil) { @agent.run {} }
    assert_equal ["0123456789abcdef", nil], spans.map(&:parent)
    assert_equal "span_0123456789abcdef00000000", @seen.ended.first.parent_id
  end

  def test_threads_and_fibers_begin_below_what_made_them
    skip "before Ruby 3.2 fibers inherit nothing" unless Fiber.respond_to?(:[])
    late = Thread::Queue.new
    child = SupportAgent.new
    child.parent_component = @agent
    survivor = nil
    @agent.with_tracing(:outer) do
      Thread.new { SearchTool.new.with_tracing(:thread) { Fiber.new { SearchTool.new.with_tracing(:below) {} }.resume } }.join
      Fiber.new { SearchTool.new.with_tracing(:fiber) {} }.resume
      Fiber.new { SearchTool.new.with_tracing(:holds) { Thread.new { child.with_tracing(:given) {} }.join } }.resume
      survivor = Thread.new { late.pop; SearchTool.new.with_tracing(:late) {} }
    end
    late << 1
    survivor.join
    Fiber.new { SearchTool.new.with_tracing(:after) {} }.resume
    found = spans.to_h { |span| [span.name[/\w+\z/].to_sym, span] }
    assert_equal [found[:outer].span_id] * 4, %i[thread fiber holds given].map { |name| found[name].parent }
    assert_equal found[:thread].span_id, found[:below].parent
    assert_equal [nil, nil], %i[late after].map { |name| found[name].parent }
  end

  def test_threads_do_not_mix
    tracer = Tracing.tracer
    threads = Array.new(4) do |number|
      Thread.new do
        50.times { |round| tracer.span("root #{number} #{round}") { |root| tracer.span("child #{number} #{round}") { Thread.pass; root } } }
      end
    end
    threads.each(&:join)
    found = by_name
    200.times.map { |at| at.divmod(50) }.each do |number, round|
      root, child = found.values_at("root #{number} #{round}", "child #{number} #{round}")
      assert_nil root.parent
      assert_equal root.span_id, child.parent
    end
  end

  def test_the_tracers_spans
    tracer = Tracing.tracer
    tracer.span("work", type: :custom, "a" => 1) do |span|
      assert_kind_of Tracing::Span, span
      assert_same span, tracer.current_span
      span.set_attribute(:b, 2).add_event("half", attributes: { done: 0.5 })
      tracer.set_attribute("c", 3)
    end
    assert_nil tracer.current_span
    open = tracer.start_span("by hand", kind: :agent)
    tracer.span("below") {}
    assert_same open, tracer.finish_span(open)
    tracer.finish_span(open)
    open.finish
    tracer.start_span("root", parent: nil).finish
    work, by_hand, below, root = spans
    assert_equal [1, 2, 3], work.attributes.values_at("a", "b", "c")
    assert_equal [["half", { "done" => 0.5 }]], work.events
    assert_equal [1, "CHAIN"], [work.status["code"], work.attributes["openinference.span.kind"]]
    assert_equal [by_hand.span_id, nil, nil], [below, by_hand, root].map(&:parent)
    assert_equal ["work", "by hand", "below", "root"], @seen.begun.map(&:name)
    assert_equal ["work", "below", "by hand"], @seen.ended.map(&:name).uniq
    assert_operator @seen.ended.first.duration, :>=, 0
  end

  def test_a_span_may_end_on_another_thread
    tracer = Tracing.tracer
    span = tracer.start_span("moved")
    Thread.new { tracer.finish_span(span) }.join
    assert_nil tracer.current_span
    tracer.span("after") {}
    assert_nil by_name["after"].parent
  end

  def test_the_tracers_errors
    assert_raises(RuntimeError) { Tracing.tracer.span("work") { raise "no" } }
    work = one("work")
    assert_equal [2, "no"], work.status.values_at("code", "message")
    assert_equal ["exception"], work.events.map(&:first)
  end

  def test_a_tracer_keeps_its_last_spans
    Tracing.configure { |config| config.max_spans_in_memory = 10 }
    tracer = Tracing::SpanTracer.new
    25.times { |number| tracer.span("span #{number}") {} }
    assert_equal (15..24).map { |number| "span #{number}" }, tracer.context.all_spans.map(&:name)
    assert_equal 25, spans.size
  end

  def test_a_trace_has_its_own_id
    id = "trace_#{"ab" * 16}"
    trace = nil
    Spanring.span("around") do
      Tracing.trace("Support", trace_id: id, group_id: "thread 1", metadata: { user: 7 }) do |given|
        trace = given
        @agent.run { Tracing.tracer.tool_span("search") {} }
      end
    end
    found = by_name
    root, agent, tool = found.values_at("trace.Support", "run.workflow.agent.TestRAAFInstall::SupportAgent", "tool.search")
    assert_equal ["ab" * 16] * 3, [root, agent, tool].map(&:trace_id)
    assert_equal [nil, root.span_id, agent.span_id], [root, agent, tool].map(&:parent)
    assert_equal ["Support", "thread 1", { "user" => 7 }], root.attributes.values_at("trace.workflow_name", "trace.group_id", "trace.metadata")
    assert_equal ["", nil], [agent, tool].map { |span| span.attributes["openai.parent_id"] }
    assert_equal id, trace.trace_id
    refute_equal root.trace_id, found["around"].trace_id
  end

  class Broken
    def on_span_end(_span) = raise("broken")
  end

  def test_other_processors_get_spans_whatever_one_does
    last = Seen.new
    Tracing.set_trace_processors(Broken.new, Spanring::RAAF::Processor.new, last)
    _, said = capture_io { 2.times { @agent.run { :value } } }
    assert_equal 2, last.ended.size
    own = Spanring::RAAF::Processor.new
    own.on_span_end(last.ended.first)
    own.export(last.ended)
    assert_equal 2, spans.size # ours has them once, and takes none of them again
    assert_match(/TestRAAFInstall::Broken#on_span_end failed \(RuntimeError: broken\)/, said) unless said.empty? # once a process
  end

  def test_a_components_own_tracer
    own = Seen.new
    @agent.tracer = Tracing::SpanTracer.new.tap { |tracer| tracer.add_processor(own) }
    @agent.run {}
    assert_equal [1, 0], [own.ended.size, @seen.ended.size]
    assert_equal 1, spans.size
  end

  def test_the_collector_of_a_class
    SearchTool.new.with_tracing(:call) { "two hits" }
    found = spans.first
    assert_equal ["TestRAAFInstall::SearchTool", "two hits"], found.attributes.values_at("tool.name", "result.tool_result")
    assert_equal ["TestRAAFInstall::SearchTool", "two hits"], found.attributes.values_at("gen_ai.tool.name", "output.value")
  end

  def test_while_tracing_is_disabled_it_is_raafs_own
    Tracing.disable!
    assert_equal(:value, @agent.with_tracing(:run, a: 1) { :value })
    Tracing.tracer.span("nothing") {}
    Tracing.enable!
    @agent.run {}
    found = spans
    names = found.map { |span| [span.name, span.attributes] }.inspect
    assert_equal 1, found.count { |span| span.name.include?("SupportAgent") }, names
    refute(found.any? { |span| span.name == "nothing" || span.attributes.key?("a") }, names)
  end

  def test_not_sampled
    Spanring.shutdown(30)
    start(sampler: "always_off")
    assert_equal(:value, @agent.run { :value })
    assert_equal 1, @seen.ended.size
    assert_empty spans
  end

  def test_without_content
    Spanring::RAAF.const_get(:Live).content = false
    ModelAgent.new.with_tracing(:run) { "secret" }
    found = spans.first
    refute_includes found.raw.to_s, "secret"
    assert_equal "gpt-4o", found.attributes["gen_ai.request.model"]
  ensure
    Spanring::RAAF.const_get(:Live).content = true
  end

  def test_after_a_fork
    @agent.run do
      pid = fork do
        SearchTool.new.with_tracing(:child) {}
        Spanring.flush(30)
        exit!(0)
      end
      Process.wait(pid)
    end
    agent, child = spans
    assert_equal agent.span_id, child.parent
  end

  # What the extension does by itself, against Conventions, which it stands in for.
  def test_the_short_way_says_what_conventions_say
    stack = Spanring.const_get(:Stack)
    conventions = Spanring::RAAF::Conventions
    known = conventions.const_get(:KNOWN).keys + %w[input.value custom a.b] + [:plain]
    values = ["gpt-4o", "N/A", "unknown", "12", 12, -1, 0, 1.5, nil, true, :symbol, ["a", 1], { "input_tokens" => 3 }, ""]
    random = Random.new(7)
    short = 0
    expected = Array.new(600) do |number|
      kind = conventions::KINDS.values.sample(random: random)
      attributes = Array.new(random.rand(6)) { [known.sample(random: random), values.sample(random: random)] }.to_h
      span = stack.open(self, nil, "span #{number}", nil, false, nil, nil)
      if stack.describe(span, kind.names, attributes, true)
        short += 1
      else
        stack.describe(span, *conventions.apart(kind, attributes), false)
      end
      span.end
      span = stack.open(self, nil, "expected #{number}", nil, false, nil, nil)
      stack.describe(span, {}, conventions.attributes(kind, attributes), false)
      span.end
      attributes
    end
    assert_operator short, :>, 200
    found = by_name
    expected.each_with_index do |attributes, number|
      assert_equal found["expected #{number}"].attributes, found["span #{number}"].attributes, attributes.inspect
    end
  end
end

# What needs a process of its own.
class TestRAAFInstalling < Case
  STAND_IN = File.expand_path("raaf_stand_in", __dir__)

  def test_without_raaf_it_says_what_to_do
    out, = script(<<~'RUBY')
      require "spanring/raaf"
      begin
        Spanring::RAAF.install!
      rescue Spanring::Error => error
        puts error.message
      end
      p Spanring::RAAF.installed?
    RUBY
    assert_match(/\ARAAF's tracing is not loaded: require "raaf-tracing".*\nfalse\n\z/, out)
  end

  def test_another_raaf_is_refused_by_name
    out, = script(<<~RUBY)
      require #{STAND_IN.inspect}
      require "spanring/raaf"
      class RAAF::Tracing::SpanContext
        undef_method :start_span
        def start_span(name, kind: :internal) = nil
        undef_method :all_spans
      end
      begin
        Spanring::RAAF.install!
      rescue Spanring::Error => error
        puts error.message
      end
      p RAAF::Tracing::Traceable.ancestors.size, Spanring::RAAF.installed?
    RUBY
    assert_match(/\Athis RAAF stand-in is not as .* knows it: SpanContext#start_span, SpanContext#all_spans are missing or take other arguments; use/, out)
    assert_equal %w[1 false], out.lines.last(2).map(&:chomp)
  end

  def test_another_provider_is_refused
    out, = script(<<~RUBY)
      require #{STAND_IN.inspect}
      require "spanring/raaf"
      class RAAF::Tracing::TraceProvider
        def initialize = @all = []
        def processors = @all
        def disabled = false
      end
      begin
        Spanring::RAAF.install!
      rescue Spanring::Error => error
        puts error.message
      end
    RUBY
    assert_match(/knows it: TraceProvider's variables is missing/, out)
  end

  def test_installing_starts_the_pipeline_registers_one_processor_and_works_once
    out, = script(<<~RUBY)
      require #{STAND_IN.inspect}
      require "spanring/raaf"
      2.times { Spanring::RAAF.install!(dir: PLACE, ignore_environment: true, service_name: "agents") }
      p RAAF::Tracing::TraceProvider.instance.processors.map(&:class), RAAF::Tracing::Traceable.ancestors.size
      class Worker; include RAAF::Tracing::Traceable; end
      Worker.new.with_tracing(:run) {}
      RAAF::Tracing.shutdown
      Worker.new.with_tracing(:late) {}
    RUBY
    assert_equal "[Spanring::RAAF::Processor]\n2\n", out
    assert_equal %w[run.workflow.component.Worker run.workflow.component.Worker.late], names
    assert_equal "agents", recorded.first.resource["service.name"]
  end

  # The same program before and after: processors see the same, but for parents, which are there more often.
  def test_processors_see_the_same_as_without
    out, = script(<<~RUBY)
      require #{STAND_IN.inspect}
      require "spanring/raaf"
      class Seen
        attr_reader :lines
        def initialize = @lines = []
        def on_span_end(span)
          @lines << [span.name, span.kind, span.status, span.attributes.except("duration_ms", "error.backtrace"), span.events.size,
                     span.start_time.class, span.end_time.class, span.duration.class]
        end
      end
      class MyAgent
        include RAAF::Tracing::Traceable
        def collect_span_attributes = super.merge("agent.name" => "mine", :symbol => [1, { deep: nil }])
      end
      class MyTool
        include RAAF::Tracing::Traceable
        def initialize(parent) = @parent_component = parent
      end
      def program
        RAAF::Tracing.set_trace_processors(seen = Seen.new)
        agent = MyAgent.new
        agent.with_tracing(:run, turn: 1) do
          agent.with_tracing(:llm_call, "llm.usage" => { input_tokens: 3 }) { agent.current_span[:attributes][:seen] = true }
          agent.with_tracing(:run, again: 2) { MyTool.new(agent).with_tracing(:call) { nil } }
          agent.with_tracing("broken") { raise IOError, "gone" } rescue nil
        end
        tracer = RAAF::Tracing::SpanTracer.new(RAAF::Tracing::TraceProvider.instance)
        tracer.span("outer", type: :custom) { |span| span.add_event("e"); tracer.tool_span("t") { span.set_status(:cancelled) } }
        tracer.span("bad") { raise "bad" } rescue nil
        seen.lines
      end
      before = program
      Spanring::RAAF.install!(dir: PLACE, ignore_environment: true)
      after = program
      before.zip(after) { |pair| puts pair.map(&:inspect) unless pair.uniq.one? }
      puts before.size == after.size
    RUBY
    # The stand-in's bare spans do not know how long they took.
    differing = out.lines[0..-2].each_slice(2).reject { |pair| pair.map { |line| line.sub(/(NilClass|Float)\]$/, "") }.uniq.one? }
    assert_empty differing
    assert_equal "true\n", out.lines.last
  end

  def test_under_a_collection_at_each_allocation
    script(<<~RUBY)
      require #{STAND_IN.inspect}
      require "spanring/raaf"
      Spanring::RAAF.install!(dir: PLACE, ignore_environment: true)
      class Worker; include RAAF::Tracing::Traceable; end
      class Seen; def on_span_end(span) = span.attributes.size + span.to_h.size; end
      class Mine; include Spanring::Traceable; trace_as :agent; def collect_span_attributes = { "a" => "b" * 3 }; end
      worker = Worker.new
      tracer = RAAF::Tracing.tracer
      2.times do |round|
        GC.stress = true
        5.times do |number|
          worker.with_tracing("method \#{number}", key: "\#{number}") { tracer.span("s \#{number}") { Mine.new.with_tracing(:run, number: number) { } } }
          worker.with_tracing(:fail) { raise "no" } rescue nil
          Fiber.new { worker.with_tracing(:fiber) { worker.current_span } }.resume
        end
        GC.stress = false
        RAAF::Tracing.add_trace_processor(Seen.new)
        GC.compact if GC.respond_to?(:compact)
      end
    RUBY
    assert_equal 2 * 5 * 5, recorded.size
  end
end

# RAAF's performance guide, followed; with two lines more.
class TestRAAFProgram < Case
  def test_it_loses_nothing_and_says_what_its_spans_are
    out, said, ended = run_within(120, { "RAAF_LIB" => TestRAAFInstalling::STAND_IN, "SPANRING_DIR" => @place, "RUNS" => "400" },
                                  File.expand_path("raaf_program.rb", __dir__))
    assert ended.success?, said
    health = JSON.parse(out)
    assert_equal({ "tracing_enabled" => true, "processors" => 3, "spans" => 400 * 5, "errors" => 400, "dropped" => 0,
                   "kinds" => { "tool" => 800, "llm" => 400, "agent" => 400, "trace" => 400 } }, health)
    found = recorded
    assert_equal 400 * 5, found.size
    found.group_by(&:trace_id).each_value { |trace| check_trace(trace) }
  end

  def test_the_bench_runs
    out, said, ended = run_within(120, { "RAAF_LIB" => TestRAAFInstalling::STAND_IN }, File.join(ROOT, "ffi/ruby/bench_traceable.rb"), "1")
    assert ended.success?, said
    assert_equal 5 + 2 * 4, out.scan(/ns +\d+\.\d objects/).size, out
    assert_equal 4, out.scan(/times as cheap$/).size
  end

  def check_trace(trace)
    root, agent, search, broken, model = trace
    assert_equal [root.span_id, agent.span_id, agent.span_id, agent.span_id], [agent, search, broken, model].map(&:parent)
    assert_equal %w[CHAIN AGENT TOOL TOOL LLM], trace.map { |span| span.attributes["openinference.span.kind"] }
    assert_equal ["Support", "gpt-4o"], agent.attributes.values_at("gen_ai.agent.name", "gen_ai.request.model")
    question = agent.attributes["input.value"]
    assert_equal ["search", JSON.generate(query: question), "three pages about #{question}"],
                 search.attributes.values_at("gen_ai.tool.name", "input.value", "output.value")
    assert_equal [2, "the index is gone"], broken.status.values_at("code", "message")
    answer = agent.attributes["output.value"]
    assert_equal [answer, 120, answer.size], model.attributes.values_at("output.value", "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens")
    assert_equal %w[Support CLIENT], [root.attributes["trace.workflow_name"], model.kind == 3 ? "CLIENT" : model.kind]
  end
end
