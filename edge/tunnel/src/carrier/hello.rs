//! The first bytes of a carrier, both ways: version, the process that speaks, proof of membership.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::tls::PROOF;

const VERSION: u8 = 1;
const LEN: usize = 1 + 8 + PROOF;

/// A greeting follows the handshake in one flight.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What one end says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    /// Drawn at the start of the process: a session lives as long as the two that speak in it.
    pub(crate) epoch: u64,
    /// Proof of membership; zero where the pipe is inside the private network already.
    pub(crate) proof: [u8; PROOF],
}

impl Hello {
    fn encode(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[0] = VERSION;
        bytes[1..9].copy_from_slice(&self.epoch.to_be_bytes());
        bytes[9..].copy_from_slice(&self.proof);
        bytes
    }

    fn decode(bytes: &[u8; LEN]) -> io::Result<Self> {
        let (version, rest) = (bytes[0], &bytes[1..]);
        if version != VERSION {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("carrier version {version}")));
        }
        let (mut epoch, mut proof) = ([0; 8], [0; PROOF]);
        epoch.copy_from_slice(&rest[..8]);
        proof.copy_from_slice(&rest[8..]);
        Ok(Self { epoch: u64::from_be_bytes(epoch), proof })
    }
}

/// Sends the own greeting and takes the other's.
pub(crate) async fn exchange(
    pipe: &mut (impl AsyncRead + AsyncWrite + Unpin),
    own: Hello,
) -> io::Result<Hello> {
    let exchange = async {
        pipe.write_all(&own.encode()).await?;
        pipe.flush().await?;
        let mut bytes = [0; LEN];
        pipe.read_exact(&mut bytes).await?;
        Hello::decode(&bytes)
    };
    tokio::time::timeout(TIMEOUT, exchange).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_ends_learn_of_each_other() {
        let (mut near, mut far) = tokio::io::duplex(256);
        let (one, two) =
            (Hello { epoch: 7, proof: [1; PROOF] }, Hello { epoch: u64::MAX, proof: [2; PROOF] });
        let (seen, said) = tokio::join!(exchange(&mut near, one), exchange(&mut far, two));
        assert_eq!((seen.unwrap(), said.unwrap()), (two, one));
    }

    #[tokio::test]
    async fn what_is_no_greeting() {
        for (sent, kind) in [
            (&[2u8; LEN][..], io::ErrorKind::InvalidData),
            (&[1u8; LEN - 1][..], io::ErrorKind::UnexpectedEof),
        ] {
            let (mut near, mut far) = tokio::io::duplex(256);
            far.write_all(sent).await.unwrap();
            far.shutdown().await.unwrap();
            let own = Hello { epoch: 1, proof: [0; PROOF] };
            assert_eq!(exchange(&mut near, own).await.unwrap_err().kind(), kind);
        }
    }
}
