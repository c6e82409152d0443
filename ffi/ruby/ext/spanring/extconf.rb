# frozen_string_literal: true

# Builds the extension against the C library: of SPANRING_PREFIX, where ffi/install put it; of the gem itself, which has it inside; or,
# in the repository, of ffi/install, which needs cargo.
require "mkmf"
require "rbconfig"

def prefix
  given = ENV.fetch("SPANRING_PREFIX", "")
  unless given.empty?
    abort "SPANRING_PREFIX=#{given} has no lib/libspanring.a; `ffi/install #{given}` puts it there" unless File.exist?("#{given}/lib/libspanring.a")
    return File.expand_path(given)
  end
  inside = File.join(__dir__, "prefix")
  return inside if File.exist?("#{inside}/lib/libspanring.a")

  install = File.expand_path("../../../install", __dir__)
  abort "spanring's C library is in neither SPANRING_PREFIX nor the gem: build the gem with ffi/ruby/install" unless File.exist?(install)
  unless find_executable("cargo")
    abort "spanring's engine is written in Rust, and cargo is missing: install a Rust toolchain (https://rustup.rs), " \
          "or set SPANRING_PREFIX to where ffi/install put the C library"
  end
  place = File.expand_path("../../build/prefix", __dir__)
  system(install, place) || abort("#{install} failed")
  place
end

at = prefix
$INCFLAGS << " -I#{at}/include"
$CFLAGS << " -std=gnu11 -O2 -fvisibility=hidden -Wall -Wextra -Wno-unused-parameter"
# Nobody else sees the library's symbols, and it stays loaded: it has a thread and exit handlers.
$LDFLAGS << " -Wl,--exclude-libs,ALL -Wl,-z,nodelete"
$LOCAL_LIBS << " #{at}/lib/libspanring.a"
$libs = append_library($libs, "m")
$libs = append_library($libs, "dl")
$libs = append_library($libs, "pthread")
create_makefile("spanring/spanring")
