use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes asked of the stream at a time when nothing is known of the next datagram: a few of the usual size.
const READ: usize = 4096;

/// A datagram as it travels in a stream: `u16` big-endian length, then the payload. `None` when it is longer than
/// any UDP datagram.
pub(crate) fn frame(payload: &[u8]) -> Option<Bytes> {
    let length = u16::try_from(payload.len()).ok()?;
    let mut framed = BytesMut::with_capacity(2 + payload.len());
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(payload);
    Some(framed.freeze())
}

/// Takes datagrams out of a stream. Holds at most one datagram and what was read along with it, and [`READ`]
/// bytes between datagrams.
#[derive(Default)]
pub(crate) struct Frames {
    buffer: BytesMut,
}

impl Frames {
    /// The next datagram; `None` when the stream ended between two. Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Bytes>> {
        loop {
            let wanted = match self.buffer.first_chunk() {
                Some(length) => 2 + usize::from(u16::from_be_bytes(*length)),
                None => 2,
            };
            if self.buffer.len() >= wanted {
                let mut framed = self.buffer.split_to(wanted);
                framed.advance(2);
                return Ok(Some(framed.freeze()));
            }
            if self.buffer.is_empty() {
                self.buffer = BytesMut::new();
            }
            self.buffer.reserve((wanted - self.buffer.len()).max(READ));
            if stream.read_buf(&mut self.buffer).await? == 0 {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn datagrams_come_out_as_they_went_in_however_the_stream_cuts_them() {
        let payloads: Vec<Vec<u8>> =
            [0, 1, 2, 5_000, 0, 65_535, 7].iter().map(|length| vec![*length as u8; *length]).collect();
        for cut in [1, 3, 4_096, 1 << 20] {
            let (mut near, mut far) = tokio::io::duplex(cut);
            let sending = async {
                for payload in &payloads {
                    near.write_all(&frame(payload).unwrap()).await.unwrap();
                }
                drop(near);
            };
            let receiving = async {
                let mut frames = Frames::default();
                let mut got = Vec::new();
                while let Some(payload) = frames.next(&mut far).await.unwrap() {
                    got.push(payload.to_vec());
                }
                got
            };
            let ((), got) = tokio::join!(sending, receiving);
            assert!(got == payloads, "cut every {cut} bytes");
        }
    }

    #[tokio::test]
    async fn a_stream_that_ends_within_a_datagram_is_broken() {
        for broken in [&[0][..], &[0, 1], &[255, 255, 1, 2, 3]] {
            let mut stream = broken;
            let error = Frames::default().next(&mut stream).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{broken:?}");
        }
        assert_eq!(Frames::default().next(&mut &[][..]).await.unwrap(), None);
        assert_eq!(frame(&vec![0; 65_536]), None);
    }
}
