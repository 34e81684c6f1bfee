use std::io;
use std::time::Duration;

use edgemesh_tunnel_proto::{GoMessageError, MAX_GO_MESSAGE};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A message leaves in one flight with its stream or right after what it answers.
pub(super) const MESSAGE_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads one message and not a byte more: what follows is payload, and a datagram's boundaries are those of its frame.
pub(super) async fn read<T>(
    stream: &mut (impl AsyncRead + Unpin),
    decode: impl Fn(&[u8]) -> Result<Option<(T, usize)>, GoMessageError>,
) -> io::Result<T> {
    let mut bytes = Vec::new();
    loop {
        match decode(&bytes) {
            Ok(Some((message, _))) => return Ok(message),
            Ok(None) if bytes.len() <= MAX_GO_MESSAGE => {}
            Ok(None) => return Err(malformed(GoMessageError::TooLong)),
            Err(error) => return Err(malformed(error)),
        }
        let missing = missing(&bytes);
        let have = bytes.len();
        bytes.resize(have + missing, 0);
        stream.read_exact(&mut bytes[have..]).await?;
    }
}

/// Bytes that the message surely has yet: the length byte by byte, then the rest.
fn missing(bytes: &[u8]) -> usize {
    let mut length = 0;
    for (index, byte) in bytes.iter().take(2).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return (index + 1 + length).saturating_sub(bytes.len()).max(1);
        }
    }
    1
}

/// Sends a message in frames of its own: a Go agent loses what comes behind it in one frame.
pub(super) async fn write(
    stream: &mut (impl AsyncWrite + Unpin),
    message: Option<Vec<u8>>,
) -> io::Result<()> {
    let message = message.ok_or_else(|| malformed(GoMessageError::TooLong))?;
    stream.write_all(&message).await?;
    stream.flush().await
}

pub(super) fn malformed(error: GoMessageError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
