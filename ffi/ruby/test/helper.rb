# frozen_string_literal: true

# What the tests have in common: a pipeline that writes into a directory, and reading what came of it with the command.
require "json"
require "minitest/autorun"
require "open3"
require "pathname"
require "rbconfig"
require "timeout"
require "tmpdir"
require "spanring"

ROOT = File.expand_path("../../..", __dir__)
COMMAND = ENV.fetch("COMMAND") { File.join(ENV.fetch("CARGO_TARGET_DIR", "#{ROOT}/target"), "release/spanring") }

# A span as the command shows it.
class Recorded
  attr_reader :raw, :resource, :scope, :name, :trace_id, :span_id, :parent, :attributes, :status, :events, :links, :kind

  def initialize(raw, resource, scope)
    @raw = raw
    @resource = resource
    @scope = scope
    @name = raw["name"]
    @trace_id = raw["traceId"]
    @span_id = raw["spanId"]
    @parent = raw["parentSpanId"].to_s.empty? ? nil : raw["parentSpanId"]
    @attributes = Recorded.attributes(raw["attributes"])
    @status = raw.fetch("status", {})
    @events = raw.fetch("events", []).map { |event| [event["name"], Recorded.attributes(event["attributes"])] }
    @links = raw.fetch("links", []).map { |link| [link["traceId"], link["spanId"], Recorded.attributes(link["attributes"])] }
    @kind = raw["kind"]
  end

  # A plain value of one in OTLP/JSON.
  def self.value(of)
    return nil if of.nil? || of.empty?

    kind, found = of.first
    case kind
    when "intValue" then Integer(found)
    when "doubleValue" then Float(found)
    when "arrayValue" then found.fetch("values", []).map { |item| value(item) }
    when "kvlistValue" then attributes(found["values"])
    when "bytesValue" then found.unpack1("m")
    else found
    end
  end

  def self.attributes(pairs)
    (pairs || []).to_h { |pair| [pair["key"].to_s, value(pair["value"])] }
  end

  # All spans in a directory, in the order in which they began.
  def self.read(place)
    text, said, status = Open3.capture3(COMMAND, "cat", "--format", "otlp-json", place.to_s)
    raise said unless status.success?

    found = text.each_line.flat_map do |line|
      JSON.parse(line, max_nesting: false).fetch("resourceSpans", []).flat_map do |resource|
        of = attributes(resource.dig("resource", "attributes"))
        resource["scopeSpans"].flat_map { |scope| scope["spans"].map { |span| new(span, of, scope["scope"]) } }
      end
    end
    found.sort_by { |span| Integer(span.raw["startTimeUnixNano"]) }
  end
end

class Case < Minitest::Test
  def setup
    @folder = Dir.mktmpdir
    @place = File.join(@folder, "spans")
  end

  def teardown
    Spanring.shutdown(30)
    FileUtils.rm_rf(@folder)
  end

  # A pipeline in this process; everything that it takes is delivered.
  def start(**settings)
    Spanring.start(dir: @place, service_name: "tests", ignore_environment: true, **settings)
  end

  def spans
    Spanring.flush(30)
    Recorded.read(@place)
  end

  def one(name)
    found = spans.select { |span| span.name == name }
    assert_equal 1, found.size, "spans that are called #{name}"
    found.first
  end

  def by_name
    found = spans
    names = found.to_h { |span| [span.name, span] }
    assert_equal names.size, found.size, "two spans have the same name"
    names
  end

  # Runs a program in a process of its own, which finds the directory for its spans in `PLACE`.
  def script(text, status: 0, options: [], environment: {}, seconds: 120)
    file = File.join(@folder, "script.rb")
    File.write(file, <<~HEAD + text)
      # frozen_string_literal: true
      require "spanring"
      PLACE = #{@place.inspect}
      def begin_spans = Spanring.start(dir: PLACE, service_name: "script", ignore_environment: true)
    HEAD
    out, said, ended = run_within(seconds, environment, *options, file)
    found = ended.exited? ? ended.exitstatus : -ended.termsig
    assert_equal status, found, "#{out}\n#{said}" unless status.nil?
    [out, said]
  end

  def run_within(seconds, environment, *arguments)
    out = said = ended = nil
    Open3.popen3(environment, RbConfig.ruby, "-I", File.dirname($LOADED_FEATURES.grep(%r{/spanring\.rb\z}).first), *arguments, chdir: @folder) do |input, output, error, process|
      input.close
      readers = [output, error].map { |stream| Thread.new { stream.read } }
      unless process.join(seconds)
        Process.kill(:KILL, process.pid)
        flunk "it hung: #{readers.map(&:value).join("\n")}"
      end
      out, said = readers.map(&:value)
      ended = process.value
    end
    [out, said, ended]
  end

  def recorded = Recorded.read(@place)
  def names = recorded.map(&:name).sort
end
