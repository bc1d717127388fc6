//! A minimal q client: a handshake, and messages as bytes.

use std::io;
use std::net::SocketAddr;

use q_ipc::frame::{HEADER_LEN, Header, MessageType};
use q_ipc::message;
use q_ipc::value::{self, Value};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// An open handle.
pub struct QClient<S = TcpStream> {
    pub stream: S,
}

/// The reason why a handle could not be opened, as far as a q client can tell.
#[derive(Debug)]
pub enum Refused {
    /// The server closed the connection instead of an answer: q signals `'access`.
    Access,
    /// The connection failed.
    Broken(io::Error),
}

impl QClient {
    /// Opens a handle over TCP.
    pub async fn open(address: SocketAddr, user: &str, password: &str) -> Result<Self, Refused> {
        let stream = TcpStream::connect(address).await.map_err(Refused::Broken)?;
        QClient::log_in(stream, user, password).await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> QClient<S> {
    /// Logs in on an established connection.
    pub async fn log_in(mut stream: S, user: &str, password: &str) -> Result<Self, Refused> {
        let hello = format!("{user}:{password}\x06\0");
        // A connection that is refused at once may break under the write; reading tells how.
        let _ = stream.write_all(hello.as_bytes()).await;
        let mut answer = [0];
        match stream.read(&mut answer).await {
            Ok(0) => Err(Refused::Access),
            Ok(_) => Ok(Self { stream }),
            Err(error) => Err(Refused::Broken(error)),
        }
    }

    /// Sends a sync request. Returns its response, or the text of the error.
    pub async fn ask(&mut self, text: &str) -> Result<Value, String> {
        let message = message::text(MessageType::Sync, text);
        let sent = self.stream.write_all(&message).await;
        sent.map_err(|error| error.to_string())?;
        self.answer().await
    }

    /// Sends a text, as q does for `h "text"`.
    pub async fn send(&mut self, message_type: MessageType, text: &str) {
        let message = message::text(message_type, text);
        self.stream.write_all(&message).await.unwrap();
    }

    /// Reads until the response to a sync request, and skips other messages.
    pub async fn answer(&mut self) -> Result<Value, String> {
        loop {
            let (header, body) = self.message().await.map_err(|error| error.to_string())?;
            if header.message_type != MessageType::Response {
                continue;
            }
            return match value::decode(&body, header.little_endian) {
                Ok(Value::Error(text)) => Err(text),
                Ok(value) => Ok(value),
                Err(error) => panic!("no q value: {error}"),
            };
        }
    }

    /// Reads one message: its header and its body.
    pub async fn message(&mut self) -> io::Result<(Header, Vec<u8>)> {
        let mut head = [0; HEADER_LEN];
        self.stream.read_exact(&mut head).await?;
        let header = Header::parse(head).map_err(io::Error::other)?;
        let length = usize::try_from(header.length).unwrap() - HEADER_LEN;
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await?;
        Ok((header, body))
    }

    /// Whether the server closes the connection in order, without sending anything before.
    pub async fn sees_end(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]).await, Ok(0))
    }
}
