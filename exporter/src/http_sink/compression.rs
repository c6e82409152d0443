//! How the bodies of requests are compressed.

use std::io::Write;

use bytes::Bytes;

use crate::batch;

/// The fastest that makes nothing larger: level 1 of zlib-rs has one code for all texts, which lets what is random grow by a twentieth.
const GZIP_LEVEL: u32 = 2;

/// How a request's body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// As `gzip`, which servers must take.
    Gzip,
    /// As `zstd`, which some servers take.
    Zstd,
}

impl Compression {
    /// The compression of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "none" => Some(Compression::None),
            "gzip" => Some(Compression::Gzip),
            "zstd" => Some(Compression::Zstd),
            _ => None,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        }
    }

    /// What is tried where this one is refused.
    pub(super) fn simpler(self) -> Option<Self> {
        match self {
            Compression::Zstd => Some(Compression::Gzip),
            Compression::Gzip => Some(Compression::None),
            Compression::None => None,
        }
    }

    pub(super) fn compress(self, body: &Bytes) -> std::io::Result<Bytes> {
        match self {
            Compression::None => Ok(body.clone()),
            Compression::Gzip => {
                let room = Vec::with_capacity(body.len() / 4);
                let mut encoder =
                    flate2::write::GzEncoder::new(room, flate2::Compression::new(GZIP_LEVEL));
                encoder.write_all(body)?;
                Ok(encoder.finish()?.into())
            }
            Compression::Zstd => Ok(zstd::bulk::compress(body, batch::LEVEL_DEFAULT)?.into()),
        }
    }
}
