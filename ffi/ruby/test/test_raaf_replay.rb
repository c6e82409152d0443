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
    skip "there is no command zstd, which reads the recording" unless ENV["PATH"].split(":").any? { |folder| File.executable?(File.join(folder, "zstd")) }
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

  # ---- OpenAI's ingest ----

  TYPES = { agent: "agent", llm: "generation", tool: "function", guardrail: "guardrail", handoff: "handoff", custom: "custom" }.freeze
  SHAPES = File.join(ROOT, "tests/openai/shapes.py")
  SHAPES_PYTHON = [File.join(ENV.fetch("CARGO_TARGET_DIR", "#{ROOT}/target"), "openai/venv/bin/python")].find { |file| File.executable?(file) }

  # Takes every request; gives the port, and the bodies that came.
  def ingest
    server = TCPServer.new("127.0.0.1", 0)
    bodies = []
    taking = Thread.new do
      loop do
        Thread.new(server.accept) do |client|
          while (line = client.gets)
            raise line unless line.start_with?("POST /v1/traces/ingest ")

            head = +""
            head << client.readline until head.end_with?("\r\n\r\n") || head == "\r\n"
            bodies << client.read(Integer(head[/content-length: (\d+)/i, 1]))
            client.write("HTTP/1.1 204 No Content\r\n\r\n")
          end
        end
      end
    end
    yield server.addr[1], bodies
  ensure
    taking&.kill
    server&.close
  end

  def moment(nanos) = Time.at(Integer(nanos) / 1_000_000_000, Integer(nanos) % 1_000_000_000, :nsec).utc.strftime("%Y-%m-%dT%H:%M:%S.%6N+00:00")

  # What a text is to the ingest, if it must be a list of messages.
  def messages(text)
    found = JSON.parse(text)
    found.is_a?(Array) ? found : nil
  rescue JSON::ParserError
    nil
  end

  # Reasoning is left out, and what is large is cut: those are the engine's tests.
  def whole?(value) = value && value.to_json.bytesize < 100_000 && !value.to_json.match?(/reasoning|thinking/)

  def compare_data(kind, attributes, name, data)
    case kind
    when :agent then assert_equal(attributes["agent.name"] || name, data["name"])
    when :llm
      assert_equal attributes["gen_ai.request.model"], data["model"]
      assert_equal attributes.values_at("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"), data["usage"].values_at("input_tokens", "output_tokens")
      %w[input output].each do |which|
        expected = messages(attributes["#{which}.value"].to_s)
        assert_equal expected, data[which] if whole?(expected)
      end
    when :tool then assert_equal attributes.values_at("tool.name", "input.value", "output.value"), data.values_at("name", "input", "output")
    when :guardrail then assert_equal attributes.values_at("guardrail.name", "guardrail.triggered"), data.values_at("name", "triggered")
    end
  end

  def test_recorded_agents_to_openais_ingest
    ingest do |port, bodies|
      spans = recording
      replay(Spanring::RAAF::Processor.new(openai: true, openai_api_key: "sk-test", openai_base_url: "http://127.0.0.1:#{port}/v1", ignore_environment: true, max_spans: 10_000), spans)
      traces, found = bodies.flat_map { |body| JSON.parse(body, max_nesting: false)["data"] }.partition { |object| object["object"] == "trace" }
      assert_equal spans.map { |span| "trace_#{span["traceId"]}" }.uniq.sort, traces.map { |trace| trace["id"] }.sort
      assert_equal spans.size, found.size
      found = found.to_h { |object| [object["id"], object] }
      spans.each do |span|
        attributes = Recorded.attributes(span["attributes"])
        kind = kind(span, attributes)
        has = found.delete("span_#{span["spanId"]}00000000") || flunk("#{span["name"]} is missing")
        parent = span["parentSpanId"] && "span_#{span["parentSpanId"]}00000000"
        expected = ["trace_#{span["traceId"]}", parent, moment(span["startTimeUnixNano"]), moment(span["endTimeUnixNano"]), TYPES.fetch(kind)]
        assert_equal expected, [*has.values_at("trace_id", "parent_id", "started_at", "ended_at"), has["span_data"]["type"]]
        assert_equal span.dig("status", "code") == 2, !has["error"].nil?
        compare_data(kind, attributes, span["name"], has["span_data"])
      end
      assert_empty found
      skip "the SDK's types are not there: tests/openai/run puts them below target" unless SHAPES_PYTHON
      file = File.join(@folder, "bodies.jsonl")
      File.write(file, bodies.map { |body| "#{body}\n" }.join)
      said, status = Open3.capture2e(SHAPES_PYTHON, SHAPES, file)
      assert status.success?, said
    end
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
