# frozen_string_literal: true

# Recorded runs of agents as RAAF's spans: what arrives is what was recorded, span by span and field by field.
require_relative "helper"
require_relative "raaf_spans"
require "net/http"
require "socket"
require "spanring/raaf"

class TestRAAFReplay < Case
  # The recordings lie beside the repository, in it, or where RECORDINGS says.
  DATA = ["#{ROOT}/../shared/data", "#{ROOT}/shared/data", *ENV["RECORDINGS"]].map { |folder| File.join(folder, "agents.jsonl.zst") }.find { |file| File.exist?(file) }
  KINDS = { "AGENT" => :agent, "LLM" => :llm, "TOOL" => :tool, "GUARDRAIL" => :guardrail }.freeze
  PATIENCE = 120

  # The recording's spans in OTLP/JSON, in the order in which they ended.
  def recording
    skip "there is no shared/data/agents.jsonl.zst" unless DATA
    text, status = Open3.capture2("zstd", "-dc", DATA)
    raise "zstd failed" unless status.success?

    spans = text.each_line.flat_map { |line| JSON.parse(line)["resourceSpans"].flat_map { |resource| resource["scopeSpans"].flat_map { |scope| scope["spans"] } } }
    # Traces of their own for each test: what was recorded before would not be again.
    number = SecureRandom.hex(4)
    spans.each { |span| span["traceId"] = number + span["traceId"][8..] }
  end

  def kind(span, attributes)
    return :handoff if span["name"] == "handoff" || attributes.key?("handoff.to_agent")

    KINDS.fetch(attributes["openinference.span.kind"], :custom)
  end

  # Half of them in each shape.
  def raaf_span(span, index)
    attributes = Recorded.attributes(span["attributes"])
    time = ->(nanos) { Time.at(Integer(nanos) / 1_000_000_000, Integer(nanos) % 1_000_000_000, :nsec) }
    error = span.dig("status", "code") == 2
    RAAFSpans.send(RAAFSpans::SHAPES[index % 2],
                   span_id: "span_#{span["spanId"]}00000000", trace_id: "trace_#{span["traceId"]}", parent_id: (id = span["parentSpanId"]) && "span_#{id}00000000",
                   name: span["name"], kind: kind(span, attributes), start_time: time[span["startTimeUnixNano"]], end_time: time[span["endTimeUnixNano"]],
                   attributes: error ? attributes.merge("status.description" => span["status"]["message"]) : attributes, status: error ? :error : :ok)
  end

  def replay(processor, spans)
    spans.each_slice(500) do |part|
      part.each_with_index { |span, index| processor.on_span_end(raaf_span(span, index)) }
      processor.force_flush(timeout: PATIENCE) || flunk("not delivered: #{Spanring.messages}")
    end
    assert_equal({ recorded: spans.size, repeated: 0, unrecorded: 0, damaged: 0, failed: 0 }, processor.stats)
  end

  ADDED = %w[raaf.kind openai.span.type gen_ai.operation.name gen_ai.agent.name gen_ai.tool.name status.description].freeze

  # [kind, what the span has] of each, by trace and span ID.
  def compare(spans, found)
    assert_equal spans.size, found.size
    spans.each do |span|
      attributes = Recorded.attributes(span["attributes"])
      kind = kind(span, attributes)
      has = found.delete([span["traceId"], span["spanId"]]) || flunk("#{span["name"]} is missing")
      error = span.dig("status", "code") == 2
      expected = [span["name"], span["parentSpanId"], Integer(span["startTimeUnixNano"]), Integer(span["endTimeUnixNano"]), error ? [2, span["status"]["message"]] : [1, nil],
                  kind == :llm ? 3 : 1, attributes]
      assert_equal expected, [*has[0, 6], has[6].reject { |name, _| ADDED.include?(name) && !attributes.key?(name) }]
      assert_equal kind.to_s, has[6]["raaf.kind"]
    end
  end

  def test_recorded_agents_to_segments
    spans = recording
    replay(Spanring::RAAF::Processor.new(dir: @place, ignore_environment: true, max_spans: 10_000), spans)
    compare(spans, self.spans.to_h do |span|
      [[span.trace_id, span.span_id], [span.name, span.parent, Integer(span.raw["startTimeUnixNano"]), Integer(span.raw["endTimeUnixNano"]),
                                       span.status.values_at("code", "message"), span.kind, span.attributes]]
    end)
  end

  # ---- The Datadog test agent ----

  AGENT = [ENV["DDAPM_TEST_AGENT"], *Dir["#{ENV.fetch("CARGO_TARGET_DIR", "#{ROOT}/target")}/{receivers/venv,python/*}/bin/ddapm-test-agent"]].compact.find { |file| File.executable?(file) }

  def free_ports(count)
    servers = Array.new(count) { TCPServer.new("127.0.0.1", 0) }
    servers.map { |server| server.addr[1] }
  ensure
    servers&.each(&:close)
  end

  def with_agent
    skip "there is no ddapm-test-agent: tests/receivers/run puts it below target, or DDAPM_TEST_AGENT names it" unless AGENT
    http, port, grpc = free_ports(3)
    log = File.join(@folder, "agent.log")
    pid = spawn(AGENT, "--host", "127.0.0.1", "--otlp-http-port", http.to_s, "--port", port.to_s, "--otlp-grpc-port", grpc.to_s, "--web-ui-port", "0",
                %i[out err] => log, chdir: @folder)
    Timeout.timeout(PATIENCE) do
      TCPSocket.new("127.0.0.1", http).close
    rescue SystemCallError
      flunk File.read(log) if Process.wait(pid, Process::WNOHANG)
      sleep 0.05
      retry
    end
    yield http
  ensure
    if pid
      Process.kill(:TERM, pid)
      Process.wait(pid)
    end
  end

  # The agent writes protobuf's own names.
  def camel(value)
    case value
    when Hash then value.to_h { |name, item| [name.gsub(/_(\w)/) { $1.upcase }, camel(item)] }
    when Array then value.map { |item| camel(item) }
    else value
    end
  end

  # IDs as JSON of protobuf has them.
  def hex(base64) = base64.to_s.empty? ? nil : base64.unpack1("m").unpack1("H*")

  KIND_NUMBERS = { "SPAN_KIND_INTERNAL" => 1, "SPAN_KIND_CLIENT" => 3 }.freeze
  CODES = { "STATUS_CODE_OK" => 1, "STATUS_CODE_ERROR" => 2 }.freeze

  def test_recorded_agents_to_the_datadog_test_agent
    with_agent do |port|
      spans = recording
      replay(Spanring::RAAF::Processor.new(endpoint: "http://127.0.0.1:#{port}", ignore_environment: true, max_spans: 10_000), spans)
      requests = camel(JSON.parse(Net::HTTP.get(URI("http://127.0.0.1:#{port}/test/session/traces")), max_nesting: false))
      found = requests.flat_map { |request| request["resourceSpans"].flat_map { |resource| resource["scopeSpans"].flat_map { |scope| scope["spans"] } } }
      compare(spans, found.to_h do |span|
        status = span.fetch("status", {})
        [[hex(span["traceId"]), hex(span["spanId"])],
         [span["name"], hex(span["parentSpanId"]), Integer(span["startTimeUnixNano"]), Integer(span["endTimeUnixNano"]), [CODES[status["code"]], status["message"]],
          KIND_NUMBERS[span["kind"]], Recorded.attributes(span["attributes"])]]
      end)
    end
  end
end
