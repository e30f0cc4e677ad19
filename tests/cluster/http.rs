//! One request: enough to see what a member answers on a port, whatever it speaks.

use bytes::Bytes;
use etcd_lab::tls;
use http_body_util::BodyExt;
use http_body_util::Full;
use hyper::Request;
use hyper::client::conn::http1;
use hyper::header::HeaderValue;
use hyper_util::rt::TokioIo;
use std::io;
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;

const WITHIN: Duration = Duration::from_secs(40);

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

/// Any method with a body of text, over plain HTTP to `host:port`.
pub(crate) async fn send(address: &str, method: &str, path: &str, body: &str) -> io::Result<Answer> {
    within(async { ask_with(TcpStream::connect(address).await?, method, path, body).await }).await
}

/// GET over plain HTTP under another name than the host's.
pub(crate) async fn get_as(address: &str, path: &str, host: &str) -> io::Result<Answer> {
    within(async {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(TcpStream::connect(address).await?)).await.map_err(io::Error::other)?;
        tokio::spawn(connection);
        let request =
            Request::get(path).header("Host", host).body(Full::new(Bytes::new())).map_err(io::Error::other)?;
        whole(sender.send_request(request).await.map_err(io::Error::other)?).await
    })
    .await
}

/// The same with a field more in the header.
pub(crate) async fn send_with(
    address: &str,
    (method, path): (&str, &str),
    field: (&str, &str),
    body: &str,
) -> io::Result<Answer> {
    within(async {
        let request = Request::builder().method(method).uri(path).header("Host", "localhost").header(field.0, field.1);
        let request = request.body(Full::new(Bytes::from(body.to_owned()))).map_err(io::Error::other)?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(TcpStream::connect(address).await?)).await.map_err(io::Error::other)?;
        tokio::spawn(connection);
        whole(sender.send_request(request).await.map_err(io::Error::other)?).await
    })
    .await
}

/// POST over plain HTTP; the first lines of an answer that may never end, and its status.
pub(crate) async fn lines(address: &str, path: &str, body: &str, count: usize) -> io::Result<(String, Vec<String>)> {
    within(async {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(TcpStream::connect(address).await?)).await.map_err(io::Error::other)?;
        tokio::spawn(connection);
        let request = Request::post(path).header("Host", "localhost");
        let request = request.body(Full::new(Bytes::from(body.to_owned()))).map_err(io::Error::other)?;
        let mut response = sender.send_request(request).await.map_err(io::Error::other)?;
        let mut text = Vec::new();
        while text.iter().filter(|byte| **byte == b'\n').count() < count {
            let Some(frame) = response.frame().await else { break };
            text.extend_from_slice(frame.map_err(io::Error::other)?.data_ref().map(Bytes::as_ref).unwrap_or_default());
        }
        let text = String::from_utf8_lossy(&text).into_owned();
        Ok((response.status().to_string(), text.lines().take(count).map(str::to_owned).collect()))
    })
    .await
}

/// GET over TLS with the certificates of `files`.
pub(crate) async fn get_tls(address: &str, path: &str, files: &tls::ClientFiles) -> io::Result<Answer> {
    let config = tls::client_config(files).map_err(io::Error::other)?;
    let connector = tokio_rustls::TlsConnector::from(config);
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).to_owned();
    let name = tokio_rustls::rustls::pki_types::ServerName::try_from(host).map_err(io::Error::other)?;
    within(async { ask(connector.connect(name, TcpStream::connect(address).await?).await?, "GET", path).await }).await
}

/// POST over plain TCP or TLS, in HTTP/1.1 or HTTP/2.
pub(crate) async fn post_by(
    address: &str,
    (path, body): (&str, &str),
    files: Option<&tls::ClientFiles>,
    http2: bool,
) -> io::Result<Answer> {
    within(async {
        let stream = TcpStream::connect(address).await?;
        let Some(files) = files else { return post_on(stream, path, body, http2).await };
        let alpn = if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() };
        let files = tls::ClientFiles { alpn: vec![alpn], ..files.clone() };
        let connector = tokio_rustls::TlsConnector::from(tls::client_config(&files).map_err(io::Error::other)?);
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host).to_owned();
        let name = tokio_rustls::rustls::pki_types::ServerName::try_from(host).map_err(io::Error::other)?;
        post_on(connector.connect(name, stream).await?, path, body, http2).await
    })
    .await
}

async fn post_on(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    path: &str,
    body: &str,
    http2: bool,
) -> io::Result<Answer> {
    if !http2 {
        return ask_with(stream, "POST", path, body).await;
    }
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(executor, TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(connection);
    let request = Request::post(format!("http://localhost{path}"));
    let request = request.body(Full::new(Bytes::from(body.to_owned()))).map_err(io::Error::other)?;
    whole(sender.send_request(request).await.map_err(io::Error::other)?).await
}

async fn within<T>(answer: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(WITHIN, answer).await.map_err(|_| io::Error::other("no answer in time"))?
}

/// Reads as far as the answer says that it goes: etcd 3.5 keeps a finished connection of its peer port open for five seconds.
async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    method: &str,
    path: &str,
) -> io::Result<Answer> {
    ask_with(stream, method, path, "").await
}

async fn ask_with(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    method: &str,
    path: &str,
    body: &str,
) -> io::Result<Answer> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // It ends with the sender; what goes wrong on it, the sender hears too.
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("Host", "localhost");
    let request = request.body(Full::new(Bytes::from(body.to_owned()))).map_err(io::Error::other)?;
    whole(sender.send_request(request).await.map_err(io::Error::other)?).await
}

async fn whole(response: hyper::Response<hyper::body::Incoming>) -> io::Result<Answer> {
    let status = format!("{:?} {}", response.version(), response.status());
    let value = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = response.headers().iter().map(|(key, text)| (key.as_str().to_owned(), value(text))).collect();
    let body = response.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
    Ok(Answer { status, headers, body: String::from_utf8_lossy(&body).into_owned() })
}
