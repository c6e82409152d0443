# frozen_string_literal: true

# ffi/ruby/install builds it: with ext/spanring/prefix, the C library, inside.
Gem::Specification.new do |spec|
  manifest = File.expand_path("../../Cargo.toml", __dir__)
  given = ENV.fetch("SPANRING_VERSION") { File.read(manifest)[/^version = "(.*)"/, 1] }
  spec.name = "spanring"
  spec.version = given
  spec.summary = "A span engine that lives inside a program"
  spec.description = "Spans that cost a fraction of a microsecond, recorded by an engine outside the interpreter."
  spec.authors = ["The spanring developers"]
  spec.licenses = ["MIT", "Apache-2.0"]
  spec.required_ruby_version = ">= 3.1"
  # The library inside is of one machine.
  spec.platform = Gem::Platform.local
  spec.files = Dir.chdir(__dir__) { Dir["lib/**/*.rb", "ext/**/*.{c,h,rb}", "ext/spanring/prefix/{include/spanring.h,lib/libspanring.a}", "README.md"] }
  spec.extensions = ["ext/spanring/extconf.rb"]
end
