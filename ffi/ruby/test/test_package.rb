# frozen_string_literal: true

# What comes with the gem: the README's examples, the way it is built, what it costs.
require_relative "helper"

class TestPackage < Case
  RUBY = File.join(ROOT, "ffi/ruby")

  [File.join(RUBY, "README.md"), File.join(ROOT, "docs/ruby.md"), File.join(ROOT, "docs/recipes.md")].each do |page|
    File.read(page).scan(/^```ruby\n(.*?)^```$/m).flatten.each_with_index do |text, at|
      name = File.basename(page, ".md")
      define_method("test_example_#{at}_of_#{name}_runs_as_it_is_printed") do
        file = File.join(@folder, "example.rb")
        File.write(file, text)
        _, said, ended = run_within(60, {}, "-W", file)
        assert ended.success?, said
        # An alert is a warning, too.
        refute_match(/warn/, said.gsub(/^W, .*|^spanring: warn: alert .*/, ""))
        found = Recorded.read(File.join(@folder, "spans"))
        refute_empty found
        check_first_example(found) if at.zero? && name == "README"
      end
    end
  end

  def check_first_example(found)
    buy, query = found
    assert_equal ["buy", { "customer" => 7, "total" => 12.5 }, [["paid", { "by" => "card" }]]], [buy.name, buy.attributes, buy.events]
    assert_equal ["db.query", buy.span_id], [query.name, query.parent]
    assert_equal({ "system" => "postgresql", "statement" => "select ..." }, query.attributes)
  end

  def test_the_version_is_the_workspaces
    version = File.read("#{ROOT}/Cargo.toml")[/^version = "(.*)"/, 1]
    assert_equal version, Spanring::VERSION
    loaded = Gem.loaded_specs["spanring"]
    assert_equal version, loaded.version.to_s if loaded
  end

  # SPANRING_PREFIX is not set unless it is given.
  def build(command, **environment)
    clean = { "SPANRING_PREFIX" => nil, "RUBYOPT" => nil, "GEM" => nil }.merge(environment.transform_keys(&:to_s))
    Open3.capture2e(clean, *command, chdir: @folder)
  end

  def test_a_build_without_cargo_says_so
    path = "#{File.dirname(RbConfig.ruby)}:/usr/bin:/bin"
    skip "cargo is everywhere" if path.split(":").any? { |place| File.exist?("#{place}/cargo") }
    said, status = build([RbConfig.ruby, "#{RUBY}/ext/spanring/extconf.rb"], PATH: path)
    refute status.success?
    assert_match(/cargo is missing.*rustup/m, said)
    said, status = build(["#{RUBY}/install"], PATH: path)
    refute status.success?
    assert_match(/cargo is missing/, said)
  end

  def test_a_prefix_without_a_library_says_so
    [[RbConfig.ruby, "#{RUBY}/ext/spanring/extconf.rb"], ["#{RUBY}/install"]].each do |command|
      said, status = build(command, SPANRING_PREFIX: @folder)
      refute status.success?
      assert_match(%r{has no lib/libspanring\.a}, said)
    end
  end

  def test_the_bench_runs
    out, said, ended = run_within(120, {}, "#{RUBY}/bench.rb", "3", "--json")
    assert ended.success?, said
    found = JSON.parse(out)
    assert_equal 0, found["dropped"]
    objects = found["cases"].transform_values { |of| of["objects"].round }
    assert_equal [1, 2], objects.values_at("spanring, bare", "spanring, 4 attributes")
  end

  # Other extensions with C libraries inside, or around.
  NATIVE = %w[nokogiri sqlite3 msgpack ffi google/protobuf oj bcrypt openssl zlib].freeze

  def test_it_loads_beside_other_native_gems
    there = NATIVE.select { |name| Open3.capture2e(RbConfig.ruby, "-r#{name}", "-e", "0").last.success? }
    assert_operator there.size, :>=, 2
    # Before us, and after.
    [there, []].each do |before|
      script(<<~RUBY, options: before.map { |name| "-r#{name}" })
        #{there.inspect}.each { |name| require name }
        begin_spans
        Spanring.span("beside", document: defined?(Nokogiri) ? Nokogiri::XML("<a><b/></a>").root.name : "a") { Zlib.gunzip(Zlib.gzip("text")) }
        Spanring.flush
      RUBY
    end
    assert_equal %w[a a], Recorded.read(@place).map { |span| span.attributes["document"] }
  end
end
