//! The private network's cipher (libp2p specs, pnet/Private-Networks-PSK-V1), with several keys at a time.
//!
//! Both sides send 24 random bytes, and what follows is XSalsa20 under the key and the sender's bytes. Nothing says
//! which key it is. But whoever dials begins with the header of multistream-select, so whoever listens tries its keys
//! on the first bytes that come, and answers under the one that fits: that lets a key be rotated without an outage.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use salsa20::XSalsa20;
use salsa20::cipher::{KeyIvInit, StreamCipher};

/// A private-network key.
pub(crate) type Psk = [u8; 32];

/// The first bytes of whoever dials (multistream-select 1.0: the length, the protocol, a newline).
const OPENING: &[u8; 20] = b"\x13/multistream/1.0.0\n";

const NONCE: usize = 24;

/// Plaintext encrypted at a time: a frame of the multiplexer.
const CHUNK: usize = 16 * 1024;

/// Which side of the connection this is, as the protocols above see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Dialler,
    Listener,
}

/// An encrypted connection.
pub(crate) struct Private<S> {
    inner: S,
    ciphers: Ciphers,
    /// Decrypted while the key was looked for, and not read yet.
    early: Vec<u8>,
    /// Encrypted and not written yet.
    outgoing: Vec<u8>,
}

enum Ciphers {
    Known { reads: XSalsa20, writes: XSalsa20 },
    Tried { keys: Arc<Vec<Psk>>, own: [u8; NONCE], remote: [u8; NONCE], first: Vec<u8> },
}

/// Random bytes of the kernel.
pub(crate) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)?;
    Ok(bytes)
}

/// Exchanges the random bytes. The first of `keys` is dialled with, any of them is accepted.
pub(crate) async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    mut socket: S,
    keys: Arc<Vec<Psk>>,
    role: Role,
) -> io::Result<Private<S>> {
    let own: [u8; NONCE] = random()?;
    let mut remote = [0; NONCE];
    socket.write_all(&own).await?;
    socket.flush().await?;
    socket.read_exact(&mut remote).await?;
    let ciphers = match (role, keys.first()) {
        (Role::Dialler, Some(key)) => Ciphers::known(key, &own, &remote),
        (Role::Dialler, None) => return Err(io::ErrorKind::InvalidInput.into()),
        (Role::Listener, _) => Ciphers::Tried { keys, own, remote, first: Vec::with_capacity(OPENING.len()) },
    };
    Ok(Private { inner: socket, ciphers, early: Vec::new(), outgoing: Vec::new() })
}

impl Ciphers {
    fn known(key: &Psk, own: &[u8; NONCE], remote: &[u8; NONCE]) -> Self {
        let cipher = |nonce: &[u8; NONCE]| XSalsa20::new(&(*key).into(), &(*nonce).into());
        Self::Known { reads: cipher(remote), writes: cipher(own) }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Private<S> {
    /// Reads the opening and finds its key; false when the peer ended before its first byte.
    fn poll_key(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let Ciphers::Tried { keys, own, remote, first } = &mut self.ciphers else {
            return Poll::Ready(Ok(true));
        };
        while first.len() < OPENING.len() {
            let mut chunk = [0; OPENING.len()];
            let wanted = OPENING.len() - first.len();
            match ready!(Pin::new(&mut self.inner).poll_read(cx, &mut chunk[..wanted]))? {
                0 if first.is_empty() => return Poll::Ready(Ok(false)),
                0 => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                count => first.extend_from_slice(&chunk[..count]),
            }
        }
        for key in keys.iter() {
            let mut known = Ciphers::known(key, own, remote);
            let Ciphers::Known { reads, .. } = &mut known else { continue };
            let mut plain = first.clone();
            reads.apply_keystream(&mut plain);
            if plain == OPENING {
                self.early = plain;
                self.ciphers = known;
                return Poll::Ready(Ok(true));
            }
        }
        Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "none of the pre-shared keys fits")))
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut written = 0;
        let result = loop {
            if written == self.outgoing.len() {
                break Poll::Ready(Ok(()));
            }
            match Pin::new(&mut self.inner).poll_write(cx, &self.outgoing[written..]) {
                Poll::Ready(Ok(0)) => break Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => written += count,
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
        };
        self.outgoing.drain(..written);
        result
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Private<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if buf.is_empty() || !ready!(this.poll_key(cx))? {
            return Poll::Ready(Ok(0));
        }
        if !this.early.is_empty() {
            let count = this.early.len().min(buf.len());
            buf[..count].copy_from_slice(&this.early[..count]);
            this.early.drain(..count);
            return Poll::Ready(Ok(count));
        }
        let count = ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
        if let Ciphers::Known { reads, .. } = &mut this.ciphers {
            reads.apply_keystream(&mut buf[..count]);
        }
        Poll::Ready(Ok(count))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Private<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.poll_drain(cx))?;
        let Ciphers::Known { writes, .. } = &mut this.ciphers else {
            // Protocols above answer; whoever listens never speaks first.
            return Poll::Ready(Err(io::Error::other("written before the peer's key is known")));
        };
        let count = buf.len().min(CHUNK);
        this.outgoing.extend_from_slice(&buf[..count]);
        writes.apply_keystream(&mut this.outgoing);
        // What does not fit now is written by the next call or a flush.
        match this.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(count)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use libp2p::pnet::{PnetConfig, PreSharedKey};
    use tokio_util::compat::TokioAsyncReadCompatExt;

    use super::*;

    const FIRST: Psk = [1; 32];
    const SECOND: Psk = [2; 32];
    const OTHER: Psk = [3; 32];

    /// Says the opening and `text`, and hears the answer's text.
    async fn dial(mut stream: impl AsyncRead + AsyncWrite + Unpin, text: &[u8]) -> io::Result<Vec<u8>> {
        stream.write_all(OPENING).await?;
        stream.write_all(text).await?;
        stream.flush().await?;
        let mut answer = vec![0; text.len()];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    }

    /// Hears the opening and a text of `len` bytes, and sends the text back reversed.
    async fn listen(mut stream: impl AsyncRead + AsyncWrite + Unpin, len: usize) -> io::Result<()> {
        let mut heard = vec![0; OPENING.len() + len];
        stream.read_exact(&mut heard).await?;
        assert_eq!(&heard[..OPENING.len()], OPENING);
        let mut text = heard.split_off(OPENING.len());
        text.reverse();
        stream.write_all(&text).await?;
        stream.close().await
    }

    fn text() -> (Vec<u8>, Vec<u8>) {
        let text: Vec<u8> = (0..100_000_u32).map(|number| number as u8 ^ (number >> 8) as u8).collect();
        let reversed = text.iter().rev().copied().collect();
        (text, reversed)
    }

    #[tokio::test]
    async fn the_key_that_fits_is_found() {
        let (text, reversed) = text();
        for (dialled, accepted, fits) in [
            (vec![FIRST], vec![FIRST], true),
            (vec![FIRST], vec![FIRST, SECOND], true),
            (vec![SECOND], vec![FIRST, SECOND], true),
            (vec![SECOND, FIRST], vec![FIRST, SECOND], true),
            (vec![OTHER, FIRST], vec![FIRST, SECOND], false),
            (vec![OTHER], vec![FIRST], false),
        ] {
            // Small, so that writes are in pieces.
            let (near, far) = tokio::io::duplex(777);
            let dialler = async {
                dial(handshake(near.compat(), Arc::new(dialled), Role::Dialler).await?, &text).await
            };
            let listener = async {
                listen(handshake(far.compat(), Arc::new(accepted), Role::Listener).await?, text.len()).await
            };
            let (answer, listened) = tokio::join!(dialler, listener);
            if fits {
                listened.unwrap();
                assert_eq!(answer.unwrap(), reversed);
            } else {
                assert_eq!(listened.unwrap_err().kind(), io::ErrorKind::InvalidData);
                assert!(answer.is_err());
            }
        }
    }

    #[tokio::test]
    async fn libp2p_understands_it_both_ways() {
        let (text, reversed) = text();
        let theirs = || PnetConfig::new(PreSharedKey::new(SECOND));
        let (near, far) = tokio::io::duplex(777);
        let dialler = async { dial(theirs().handshake(near.compat()).await.unwrap(), &text).await };
        let listener = async {
            let keys = Arc::new(vec![FIRST, SECOND]);
            listen(handshake(far.compat(), keys, Role::Listener).await?, text.len()).await
        };
        let (answer, listened) = tokio::join!(dialler, listener);
        listened.unwrap();
        assert_eq!(answer.unwrap(), reversed);

        let (near, far) = tokio::io::duplex(777);
        let dialler = async {
            let keys = Arc::new(vec![SECOND, FIRST]);
            dial(handshake(near.compat(), keys, Role::Dialler).await?, &text).await
        };
        let listener = async { listen(theirs().handshake(far.compat()).await.unwrap(), text.len()).await };
        let (answer, listened) = tokio::join!(dialler, listener);
        listened.unwrap();
        assert_eq!(answer.unwrap(), reversed);
    }

    #[tokio::test]
    async fn a_dialler_that_ends_early() {
        for len in 0..NONCE + OPENING.len() {
            let (mut near, far) = tokio::io::duplex(777);
            let sent = vec![0; len];
            tokio::io::AsyncWriteExt::write_all(&mut near, &sent).await.unwrap();
            tokio::io::AsyncWriteExt::shutdown(&mut near).await.unwrap();
            let heard = async {
                let mut stream = handshake(far.compat(), Arc::new(vec![FIRST]), Role::Listener).await?;
                stream.read(&mut [0; 1]).await
            };
            match (len, heard.await) {
                (NONCE, heard) => assert_eq!(heard.unwrap(), 0),
                (_, heard) => assert_eq!(heard.unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "{len}"),
            }
        }
    }
}
