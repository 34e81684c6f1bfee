use anyhow::bail;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One read or write: large enough that system calls do not count.
const CHUNK: usize = 128 << 10;

const UP: u8 = b'u';
const DOWN: u8 = b'd';

/// Serves one transfer: the direction, the length, then the bytes; the receiver answers how many came.
pub(crate) async fn serve(mut stream: TcpStream) -> anyhow::Result<()> {
    let direction = stream.read_u8().await?;
    let length = stream.read_u64().await?;
    match direction {
        UP => {
            receive(&mut stream, length).await?;
            stream.write_u64(length).await?;
        }
        DOWN => send(&mut stream, length).await?,
        other => bail!("direction {other}"),
    }
    Ok(())
}

/// Transfers `length` bytes.
pub(crate) async fn ask(stream: &mut TcpStream, up: bool, length: u64) -> anyhow::Result<()> {
    stream.write_u8(if up { UP } else { DOWN }).await?;
    stream.write_u64(length).await?;
    if !up {
        return receive(stream, length).await;
    }
    send(stream, length).await?;
    if stream.read_u64().await? != length {
        bail!("the server counted another number of bytes");
    }
    Ok(())
}

async fn send(stream: &mut TcpStream, mut length: u64) -> anyhow::Result<()> {
    let chunk = vec![0x5a; CHUNK];
    while length > 0 {
        let take = usize::try_from(length).unwrap_or(CHUNK).min(CHUNK);
        stream.write_all(&chunk[..take]).await?;
        length -= take as u64;
    }
    stream.flush().await?;
    Ok(())
}

async fn receive(stream: &mut TcpStream, mut length: u64) -> anyhow::Result<()> {
    let mut chunk = vec![0; CHUNK];
    while length > 0 {
        match stream.read(&mut chunk).await? {
            0 => bail!("the stream ended {length} bytes early"),
            got => length = length.saturating_sub(got as u64),
        }
    }
    Ok(())
}
