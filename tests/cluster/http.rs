//! One GET, by hand: enough to see what a member answers on a port, whatever it speaks.

use etcd_lab::tls;
use std::io;
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const WITHIN: Duration = Duration::from_secs(5);

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: String,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    /// The header of this name, in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// GET over plain HTTP from `host:port`.
pub(crate) async fn get(address: &str, path: &str) -> io::Result<Answer> {
    within(async { ask(TcpStream::connect(address).await?, path).await }).await
}

/// GET over TLS with the certificates of `files`.
pub(crate) async fn get_tls(address: &str, path: &str, files: &tls::ClientFiles) -> io::Result<Answer> {
    let config = tls::client_config(files).map_err(io::Error::other)?;
    let connector = tokio_rustls::TlsConnector::from(config);
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).to_owned();
    let name = tokio_rustls::rustls::pki_types::ServerName::try_from(host).map_err(io::Error::other)?;
    within(async { ask(connector.connect(name, TcpStream::connect(address).await?).await?, path).await }).await
}

async fn within(answer: impl Future<Output = io::Result<Answer>>) -> io::Result<Answer> {
    tokio::time::timeout(WITHIN, answer).await.map_err(|_| io::Error::other("no answer in time"))?
}

async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> io::Result<Answer> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut bytes = Vec::new();
    // A peer that closes without a TLS goodbye has still answered.
    let end = stream.read_to_end(&mut bytes).await;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return Err(end.err().unwrap_or_else(|| io::Error::other(format!("no HTTP: {text:?}"))));
    };
    let mut lines = head.lines();
    let status = lines.next().unwrap_or_default().to_owned();
    let headers = lines.filter_map(|line| line.split_once(": ")).map(|(k, v)| (k.to_lowercase(), v.to_owned()));
    Ok(Answer { status, headers: headers.collect(), body: body.to_owned() })
}
