//! The zstd frame around a batch's content.
//!
//! A frame states its content's size and checksum, uses no dictionary and no window above
//! [`WINDOW_LOG_MAX`]. The reader insists on the first three, so a changed or cut frame is an error,
//! and takes nothing else: no skippable frames, nothing behind the frame.

use zstd::zstd_safe::zstd_sys::ZSTD_EndDirective;
use zstd::zstd_safe::{self, CCtx, CParameter, InBuffer, OutBuffer};

use super::{BatchError, CONTENT_BYTES_MAX};

/// Base-2 logarithm of the farthest match: 8 MiB.
const WINDOW_LOG_MAX: u32 = 23;
/// Content up to this size is compressed piece by piece, each with codes of its own.
const PIECES_BYTES_MAX: usize = 1 << 17;
/// A piece shorter than this shares its codes with the one before it.
const PIECE_BYTES_MIN: usize = 192;
const MAGIC: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();

/// Compresses contents, one at a time, with one context.
pub(super) struct Compressor {
    context: CCtx<'static>,
    content: Vec<u8>,
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compressor").field("context_bytes", &self.context.sizeof()).finish()
    }
}

impl Compressor {
    pub(super) fn new() -> Result<Self, BatchError> {
        let mut context =
            CCtx::try_create().ok_or_else(|| BatchError::compression("out of memory"))?;
        context.set_parameter(CParameter::ChecksumFlag(true)).map_err(zstd_error)?;
        Ok(Compressor { context, content: Vec::new() })
    }

    /// Bytes that the compression context takes.
    pub(super) fn context_bytes(&self) -> usize {
        self.context.sizeof()
    }

    /// The frame of `pieces`, one after another.
    ///
    /// Ending a block between pieces changes nothing for the reader, but the entropy coder gets to
    /// see one kind of data at a time: packed bits are stored as they are, and do not spoil the code
    /// of what can be compressed.
    pub(super) fn compress(&mut self, pieces: &[&[u8]], level: i32) -> Result<Vec<u8>, BatchError> {
        let mut frame = self.compress_pieces(pieces, level)?;
        // Frames wait in queues, whose bytes are counted by length.
        frame.shrink_to_fit();
        Ok(frame)
    }

    fn compress_pieces(&mut self, pieces: &[&[u8]], level: i32) -> Result<Vec<u8>, BatchError> {
        let len: usize = pieces.iter().map(|piece| piece.len()).sum();
        let window_log = len.max(1).next_power_of_two().ilog2().clamp(10, WINDOW_LOG_MAX);
        let context = &mut self.context;
        for parameter in [CParameter::CompressionLevel(level), CParameter::WindowLog(window_log)] {
            context.set_parameter(parameter).map_err(zstd_error)?;
        }
        let mut frame = Vec::with_capacity(zstd_safe::compress_bound(len) + 16 * pieces.len());
        if len > PIECES_BYTES_MAX {
            self.content.clear();
            pieces.iter().for_each(|piece| self.content.extend_from_slice(piece));
            context.compress2(&mut frame, &self.content).map_err(zstd_error)?;
            if self.content.capacity() > 1 << 20 {
                self.content = Vec::new();
            }
            return Ok(frame);
        }
        context.set_pledged_src_size(Some(len as u64)).map_err(zstd_error)?;
        let mut output = OutBuffer::around(&mut frame);
        for (index, piece) in pieces.iter().enumerate() {
            let next = pieces.get(index + 1).map(|next| next.len());
            let how = match next {
                None => ZSTD_EndDirective::ZSTD_e_end,
                Some(next) if next.min(piece.len()) < PIECE_BYTES_MIN => {
                    ZSTD_EndDirective::ZSTD_e_continue
                }
                Some(_) => ZSTD_EndDirective::ZSTD_e_flush,
            };
            let mut input = InBuffer::around(piece);
            loop {
                let left =
                    context.compress_stream2(&mut output, &mut input, how).map_err(zstd_error)?;
                let taken = input.pos() == piece.len();
                if taken && (left == 0 || how == ZSTD_EndDirective::ZSTD_e_continue) {
                    break;
                }
            }
        }
        Ok(frame)
    }
}

fn zstd_error(code: usize) -> BatchError {
    BatchError::compression(zstd_safe::get_error_name(code))
}

/// The content of `frame`.
pub(super) fn decompress(frame: &[u8]) -> Result<Vec<u8>, BatchError> {
    if frame.get(..4) != Some(&MAGIC) {
        return Err(BatchError::frame("it does not begin with zstd's magic number"));
    }
    // Bit 2: a checksum follows; bits 3 and 4: reserved and unused; bits 0 and 1: a dictionary's ID.
    if frame.get(4).is_none_or(|flags| flags & 0b1_1111 != 0b100) {
        return Err(BatchError::frame(
            "its frame has no checksum, or flags that batches never have",
        ));
    }
    let size = match zstd_safe::get_frame_content_size(frame) {
        Ok(Some(size)) => size,
        _ => return Err(BatchError::frame("its frame does not state the content's size")),
    };
    if size > CONTENT_BYTES_MAX as u64 {
        return Err(BatchError::too_large("bytes of content", CONTENT_BYTES_MAX));
    }
    match zstd_safe::find_frame_compressed_size(frame) {
        Ok(len) if len == frame.len() => {}
        Ok(_) => return Err(BatchError::frame("bytes follow its frame")),
        Err(code) => return Err(BatchError::frame(zstd_safe::get_error_name(code))),
    }
    let mut content = Vec::with_capacity(size as usize);
    match zstd_safe::decompress(&mut content, frame) {
        Ok(len) if len as u64 == size => Ok(content),
        Ok(_) => Err(BatchError::frame("its content is shorter than stated")),
        Err(code) => Err(BatchError::frame(zstd_safe::get_error_name(code))),
    }
}

/// A frame with `content`, for tests and fuzzing beyond the checksum.
#[doc(hidden)]
pub fn wrap_content(content: &[u8]) -> Vec<u8> {
    Compressor::new()
        .and_then(|mut compressor| compressor.compress(&[content], 1))
        .expect("zstd compresses whatever it is given")
}
