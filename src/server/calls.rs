//! The calls of one HTTP/2 connection, all in the task of that connection.
//!
//! ```text
//! apply thread: answers 10 calls ──▶ one wake-up ──▶ the connection's task: 10 calls go on, each leaves its answer
//!                                                    then the connection itself: one write for all of them
//! ```
//!
//! hyper would have each call be a task of its own. Then an answer wakes the call's task, which wakes the connection's task, which writes it: two
//! wake-ups and a system call for each, and both cores in each other's way. Here each call that was woken has its turn, once, and the
//! connection after all of them.
//!
//! The price: two calls of one connection never run at the same moment. So nothing here may compute for long; a read of millions of rows gives way
//! between its slices and loads elsewhere (`room.rs`). Other connections are tasks of their own.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use std::future::Future;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Wake;
use std::task::Waker;
use tokio::task::coop::unconstrained;

/// What hyper gives new calls to.
#[derive(Clone, Default)]
pub(super) struct Arrivals(Arc<Mutex<Vec<BoxFuture<'static, ()>>>>);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Arrivals {
    fn execute(&self, call: F) {
        // One that panics ends alone, as a task of its own would.
        let call = AssertUnwindSafe(call).catch_unwind().map(drop);
        self.0.lock().push(call.boxed());
    }
}

/// Those who were woken and have not had their turn, by their places.
#[derive(Default)]
struct Line {
    woken: Mutex<Vec<usize>>,
    /// The connection's task.
    task: AtomicWaker,
}

/// What wakes one call.
struct Bell {
    place: usize,
    /// It stands in line.
    is_rung: AtomicBool,
    line: Arc<Line>,
}

impl Wake for Bell {
    fn wake(self: Arc<Bell>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Bell>) {
        if !self.is_rung.swap(true, Ordering::AcqRel) {
            self.line.woken.lock().push(self.place);
            self.line.task.wake();
        }
    }
}

struct Running {
    call: BoxFuture<'static, ()>,
    bell: Arc<Bell>,
    waker: Waker,
}

/// The calls of one connection.
#[derive(Default)]
pub(super) struct Calls {
    arrivals: Arrivals,
    line: Arc<Line>,
    /// Each at its place. A place is used again; if somebody still has the bell of who was there before, his successor is woken for nothing.
    running: Vec<Option<Running>>,
    free: Vec<usize>,
    /// Whose turn it is; empty in between.
    turn: Vec<usize>,
}

impl Calls {
    pub(super) fn arrivals(&self) -> Arrivals {
        self.arrivals.clone()
    }

    /// Runs a connection and its calls until the connection ends. What calls are left then, nobody waits for: they end with it.
    pub(super) async fn run<C: Future>(&mut self, mut connection: Pin<&mut C>) -> C::Output {
        poll_fn(|cx| {
            loop {
                self.take_turns(cx);
                let ended = connection.as_mut().poll(cx);
                if ended.is_ready() || !self.take_arrivals() {
                    return ended;
                }
            }
        })
        .await
    }

    /// Lets everybody go on who was woken. They have no part in the task's budget, all of which the connection may use to read and write.
    fn take_turns(&mut self, cx: &Context<'_>) {
        self.line.task.register(cx.waker());
        std::mem::swap(&mut *self.line.woken.lock(), &mut self.turn);
        for place in self.turn.drain(..) {
            let Some(Running { call, bell, waker }) = &mut self.running[place] else { continue };
            // Whoever is woken from here on has another turn.
            bell.is_rung.swap(false, Ordering::AcqRel);
            if pin!(unconstrained(call)).poll(&mut Context::from_waker(waker)).is_ready() {
                self.running[place] = None;
                self.free.push(place);
            }
        }
    }

    /// Whether there are new calls, which are in line then.
    fn take_arrivals(&mut self) -> bool {
        let mut arrivals = self.arrivals.0.lock();
        let any = !arrivals.is_empty();
        for call in arrivals.drain(..) {
            let place = self.free.pop().unwrap_or_else(|| {
                self.running.push(None);
                self.running.len() - 1
            });
            let bell = Arc::new(Bell { place, is_rung: AtomicBool::new(true), line: Arc::clone(&self.line) });
            let waker = Waker::from(Arc::clone(&bell));
            self.running[place] = Some(Running { call, bell, waker });
            self.line.woken.lock().push(place);
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::rt::Executor as _;
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering;
    use std::task::Poll;
    use tokio::sync::Notify;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn a_call_that_panics_ends_alone() {
        let mut calls = Calls::default();
        let (arrivals, (done, is_done)) = (calls.arrivals(), oneshot::channel());
        let connection = async move {
            arrivals.execute(async { std::panic::resume_unwind(Box::new("as a panic would")) });
            arrivals.execute(async { done.send(7).expect("the connection waits") });
            is_done.await
        };
        assert_eq!(calls.run(pin!(connection)).await, Ok(7));
    }

    #[tokio::test]
    async fn many_calls_that_go_on_at_once_are_one_turn_of_the_connection() {
        const COUNT: usize = 500;
        let mut calls = Calls::default();
        let (arrivals, news) = (calls.arrivals(), Arc::new(Notify::new()));
        let (answered, turns) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        for _ in 0..COUNT {
            let (news, answered) = (news.clone(), answered.clone());
            arrivals.execute(async move {
                news.notified().await;
                answered.fetch_add(1, Ordering::Relaxed);
            });
        }
        let connection = poll_fn(|cx| {
            turns.fetch_add(1, Ordering::Relaxed);
            if answered.load(Ordering::Relaxed) == COUNT {
                return Poll::Ready(());
            }
            // All wait by their second turn.
            if turns.load(Ordering::Relaxed) == 2 {
                news.notify_waiters();
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        });
        calls.run(pin!(connection)).await;
        assert!(turns.load(Ordering::Relaxed) <= 5, "{turns:?} turns for {COUNT} answers");
    }
}
