//! A connection on which small frames leave together.
//!
//! h2 gathers frames into one write only below 256 bytes each, if it believes that the connection takes several buffers at once, and below 1 KiB if not:
//! an event with a small value would be a system call of its own. So this says that it does not. Then h2 writes the head of a large frame first and the
//! rest of it next; the head is held back here for that moment, and both go out as two buffers of one write after all.

use std::io;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;

/// What is shorter is held back until more comes, or until it is flushed. The head of a frame, with what h2 puts beside it, is not much above 1 KiB.
const HELD_BYTES: usize = 2048;

/// A connection, and the bytes that are held back.
pub(super) struct Joined<IO> {
    io: IO,
    held: Vec<u8>,
}

impl<IO: AsyncWrite + Unpin> Joined<IO> {
    pub(super) fn new(io: IO) -> Joined<IO> {
        Joined { io, held: Vec::new() }
    }

    /// Writes what is held, and `more` behind it; how many bytes of that went out as well. Nothing is held any more then.
    fn poll_release(&mut self, cx: &mut Context<'_>, more: &[u8]) -> Poll<io::Result<usize>> {
        while !self.held.is_empty() {
            let buffers = [IoSlice::new(&self.held), IoSlice::new(more)];
            let count = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, &buffers))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_held = count.min(self.held.len());
            self.held.drain(..of_held);
            if count > of_held {
                return Poll::Ready(Ok(count - of_held));
            }
        }
        Poll::Ready(Ok(0))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Joined<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.held.is_empty() && buf.len() < HELD_BYTES {
            self.held.extend_from_slice(buf);
            return Poll::Ready(Ok(buf.len()));
        }
        match ready!(self.poll_release(cx, buf))? {
            0 => Pin::new(&mut self.io).poll_write(cx, buf),
            count => Poll::Ready(Ok(count)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        false
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_release(cx, &[]))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_release(cx, &[]))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Joined<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;
    use tokio::io::AsyncWriteExt as _;

    /// Takes at most so many bytes a write, and remembers the writes.
    struct Slow {
        most: usize,
        writes: Vec<Vec<u8>>,
    }

    impl AsyncWrite for Slow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let count = buf.len().min(self.most);
            self.writes.push(buf[..count].to_vec());
            Poll::Ready(Ok(count))
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bufs: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.poll_write(cx, &bufs.iter().flat_map(|buf| buf.iter().copied()).collect::<Vec<u8>>())
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn written(most: usize, parts: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut joined = Joined::new(Slow { most, writes: Vec::new() });
        for part in parts {
            joined.write_all(part).now_or_never().expect("never waits").expect("written");
        }
        joined.flush().now_or_never().expect("never waits").expect("flushed");
        joined.io.writes
    }

    #[test]
    fn a_head_and_its_rest_leave_together() {
        let (head, rest) = ([1; 1024], [2; 16_000]);
        assert_eq!(written(usize::MAX, &[&head, &rest]), [[&head[..], &rest].concat()]);
        assert_eq!(written(usize::MAX, &[&rest]), [rest.to_vec()]);
        assert_eq!(written(usize::MAX, &[&head]), [head.to_vec()], "held until it is flushed");
    }

    #[test]
    fn nothing_is_lost_or_doubled_when_little_is_taken_at_a_time() {
        let (head, rest) = ([1; 100], [2; 5000]);
        for most in [1, 7, 99, 100, 101, 4096] {
            let all = written(most, &[&head, &rest, &head, &head]).concat();
            assert_eq!(all, [&head[..], &rest, &head, &head].concat(), "{most} at a time");
        }
    }
}
