//! One request: enough to see what a member answers on a port, whatever it speaks.

use bytes::Bytes;
use etcd_lab::tls;
use http_body_util::BodyExt;
use http_body_util::Empty;
use hyper::Request;
use hyper::client::conn::http1;
use hyper::header::HeaderValue;
use hyper_util::rt::TokioIo;
use std::io;
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
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
    within(async { ask(TcpStream::connect(address).await?, "GET", path).await }).await
}

/// POST of nothing over plain HTTP to `host:port`.
pub(crate) async fn post(address: &str, path: &str) -> io::Result<Answer> {
    within(async { ask(TcpStream::connect(address).await?, "POST", path).await }).await
}

/// GET over TLS with the certificates of `files`.
pub(crate) async fn get_tls(address: &str, path: &str, files: &tls::ClientFiles) -> io::Result<Answer> {
    let config = tls::client_config(files).map_err(io::Error::other)?;
    let connector = tokio_rustls::TlsConnector::from(config);
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).to_owned();
    let name = tokio_rustls::rustls::pki_types::ServerName::try_from(host).map_err(io::Error::other)?;
    within(async { ask(connector.connect(name, TcpStream::connect(address).await?).await?, "GET", path).await }).await
}

async fn within(answer: impl Future<Output = io::Result<Answer>>) -> io::Result<Answer> {
    tokio::time::timeout(WITHIN, answer).await.map_err(|_| io::Error::other("no answer in time"))?
}

/// Reads as far as the answer says that it goes: etcd 3.5 keeps a finished connection of its peer port open for five seconds.
async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    method: &str,
    path: &str,
) -> io::Result<Answer> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // It ends with the sender; what goes wrong on it, the sender hears too.
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("Host", "localhost");
    let request = request.body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    let status = format!("{:?} {}", response.version(), response.status());
    let value = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = response.headers().iter().map(|(key, text)| (key.as_str().to_owned(), value(text))).collect();
    let body = response.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
    Ok(Answer { status, headers, body: String::from_utf8_lossy(&body).into_owned() })
}
