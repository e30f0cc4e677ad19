//! Finds out which HTTP a client speaks by its first bytes, and gives them back to whoever reads on.
//!
//! HTTP/2 begins with 24 bytes that no HTTP/1 request can begin with (RFC 9113 section 3.4). ALPN would tell the same, but plain
//! connections have none and some clients leave it out.

use super::authority::Watch;
use bytes::BytesMut;
use std::io;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection whose first bytes have been looked at.
pub(super) struct Sniffed<IO> {
    io: IO,
    first: [u8; 24],
    have: usize,
    given: usize,
    /// Looks after the first request's authority, on HTTP/2.
    watch: Option<Watch>,
    /// What the watch has let pass and nobody has read yet.
    passed: BytesMut,
}

impl<IO: AsyncRead + Unpin> Sniffed<IO> {
    /// Reads until it is clear what is spoken.
    pub(super) async fn new(io: IO) -> io::Result<Sniffed<IO>> {
        let (watch, passed) = (None, BytesMut::new());
        let mut sniffed = Sniffed { io, first: [0; 24], have: 0, given: 0, watch, passed };
        while sniffed.is_prefix() && sniffed.have < PREFACE.len() {
            let count = sniffed.io.read(&mut sniffed.first[sniffed.have..]).await?;
            if count == 0 {
                break;
            }
            sniffed.have += count;
        }
        sniffed.watch = sniffed.is_http2().then(Watch::default);
        Ok(sniffed)
    }
}

impl<IO> Sniffed<IO> {
    fn is_prefix(&self) -> bool {
        self.first[..self.have] == PREFACE[..self.have]
    }

    /// Whether HTTP/2 is spoken.
    pub(super) fn is_http2(&self) -> bool {
        self.have == PREFACE.len() && self.is_prefix()
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Sniffed<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.given < self.have {
            let count = buf.remaining().min(self.have - self.given);
            buf.put_slice(&self.first[self.given..self.given + count]);
            self.given += count;
            return Poll::Ready(Ok(()));
        }
        loop {
            if !self.passed.is_empty() {
                let count = buf.remaining().min(self.passed.len());
                buf.put_slice(&self.passed.split_to(count));
                return Poll::Ready(Ok(()));
            }
            let this = &mut *self;
            let Some(watch) = &mut this.watch else { return Pin::new(&mut this.io).poll_read(cx, buf) };
            let mut space = [0; 1024];
            let mut read = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut this.io).poll_read(cx, &mut read))?;
            let ended = read.filled().is_empty();
            this.passed.extend_from_slice(&if ended { watch.finish() } else { watch.pass(read.filled()) });
            if watch.is_done() {
                this.watch = None;
            }
        }
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Sniffed<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sniff(bytes: &'static [u8]) -> (bool, Vec<u8>) {
        let mut sniffed = Sniffed::new(tokio_test_reader(bytes)).await.expect("reads");
        let mut all = Vec::new();
        sniffed.read_to_end(&mut all).await.expect("reads");
        (sniffed.is_http2(), all)
    }

    /// Gives one byte at a time, as a network may.
    fn tokio_test_reader(bytes: &'static [u8]) -> impl AsyncRead + Unpin {
        struct Slow(&'static [u8]);
        impl AsyncRead for Slow {
            fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
                if let Some((first, rest)) = self.0.split_first() {
                    buf.put_slice(&[*first]);
                    self.0 = rest;
                }
                Poll::Ready(Ok(()))
            }
        }
        Slow(bytes)
    }

    #[tokio::test]
    async fn the_first_bytes_decide_and_none_is_lost() {
        for (bytes, http2) in [
            (&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nrest"[..], true),
            (b"PUT / HTTP/1.1\r\n\r\n", false),
            (b"GET / HTTP/1.1\r\n\r\n", false),
            (b"PRI", false),
            (b"", false),
        ] {
            assert_eq!(sniff(bytes).await, (http2, bytes.to_vec()));
        }
    }
}
