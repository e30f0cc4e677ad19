//! One task for each member that listens to what it tells, and reconnects for as long as the lab runs.
//!
//! Nothing is made up here: a member that cannot be reached is reported as lost, with the reason, once. If the screen is
//! slower than the members, the channel fills, this task stops reading, and the *member* drops events and counts them:
//! observing never holds a member up.

#![expect(clippy::disallowed_methods, reason = "waits between attempts to connect")]

use crate::lab::Error;
use crate::lab::cluster::Change;
use crate::lab::promises::Call;
use crate::lab::promises::Watched;
use crate::lab::store::Shown;
use crate::lab::survey::Survey;
use crate::lab::workdir::Record;
use crate::proto::lab::Batch;
use crate::proto::lab::LookResponse;
use crate::proto::lab::ObserveRequest;
use crate::proto::lab::Telemetry;
use crate::proto::lab::lab_client::LabClient;
use hyper_util::rt::TokioIo;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::transport::Endpoint;

/// Reports that may wait for the screen.
pub const REPORTS_MAX: usize = 4096;
/// A batch has few thousand events; each may tell of many entries.
const BATCH_MAX: usize = 64 << 20;
const RETRY: Duration = Duration::from_millis(200);
const CONNECT: Duration = Duration::from_secs(2);

/// What the lab learns about its cluster. Members are counted from 0 (n1 is 0).
#[derive(Clone, Debug)]
pub enum Report {
    /// The operating system: something happened to a member's process.
    Process { member: usize, change: Change },
    /// The stream from a member is open.
    Connected { member: usize },
    /// The stream from a member is closed, or could not be opened.
    Lost { member: usize, why: String },
    /// The member itself.
    Telemetry { member: usize, event: Box<Telemetry> },
    /// What a member answered when it was asked for what is no event.
    Looked { member: usize, look: Box<LookResponse> },
    /// What etcd's own services say of a member.
    Surveyed { member: usize, survey: Box<Survey> },
    /// An answer for the Data screen.
    Shown(Box<Shown>),
    /// The learner has done this: the line that stands for it.
    Did { line: String },
    /// The learner has marked this moment.
    Mark { text: String },
    /// The lab's own client asks, or is answered.
    Called(Box<Call>),
    /// What the lab's own watch was told, and by which member.
    Watched { member: usize, watched: Box<Watched> },
    /// What a member has written into its log: why it ended, or what it warns of.
    Said { member: usize, line: String },
    /// What the nemesis does.
    Nemesis { line: String },
    /// Something that the user should read.
    Note { text: String },
}

/// Listens to all members of a lab until the set is dropped.
#[must_use]
pub fn observe(record: &Record, token: &str, to: &mpsc::Sender<Report>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for (member, m) in record.members.iter().enumerate() {
        // Of upstream etcd nobody answers, and nobody is missed: what it says of itself the survey asks for. Our server may take its place.
        let lost = record.upstream.is_some();
        tasks.spawn(follow(member, m.lab_socket.clone(), token.to_string(), to.clone(), lost));
    }
    tasks
}

/// `lost`: nobody was there so far, as everybody knows.
async fn follow(member: usize, socket: PathBuf, token: String, to: mpsc::Sender<Report>, mut lost: bool) {
    loop {
        let why = match listen(member, &socket, &token, &to, &mut lost).await {
            Ok(()) => "it closed the stream".to_string(),
            Err(status) => status.message().to_string(),
        };
        if to.is_closed() {
            return;
        }
        if !lost {
            lost = true;
            drop(to.send(Report::Lost { member, why }).await);
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn listen(
    member: usize,
    socket: &Path,
    token: &str,
    to: &mpsc::Sender<Report>,
    lost: &mut bool,
) -> Result<(), tonic::Status> {
    let request = with_token(ObserveRequest {}, token)?;
    let mut client = connect(socket).await?.max_decoding_message_size(BATCH_MAX);
    let mut stream = client.observe(request).await?.into_inner();
    *lost = false;
    drop(to.send(Report::Connected { member }).await);
    // What tonic says of a broken stream is about frames; a reader needs only that it broke.
    let broke = |_| tonic::Status::unavailable("the connection broke");
    while let Some(batch) = stream.message().await.map_err(broke)? {
        for event in told(batch) {
            if to.send(Report::Telemetry { member, event: Box::new(event) }).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The events of a batch, each with what stands once above them all.
fn told(batch: Batch) -> impl Iterator<Item = Telemetry> {
    let Batch { member_id, boot_id, dropped, events } = batch;
    events.into_iter().map(move |event| Telemetry { member_id, boot_id, dropped, ..event })
}

/// A client of the member's lab service.
pub(crate) async fn connect(socket: &Path) -> Result<LabClient<Channel>, tonic::Status> {
    let socket = socket.to_path_buf();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
    });
    // The address is not used: the connector knows the socket.
    let endpoint = Endpoint::from_static("http://lab.invalid").connect_timeout(CONNECT);
    let channel = endpoint.connect_with_connector(connector).await;
    Ok(LabClient::new(channel.map_err(|e| tonic::Status::unavailable(innermost(&e)))?))
}

/// tonic says "transport error"; the reason is at the end of the chain.
fn innermost(e: &dyn std::error::Error) -> String {
    let mut e = e;
    while let Some(source) = e.source() {
        e = source;
    }
    e.to_string()
}

/// A request that carries the lab's secret.
pub(crate) fn with_token<T>(message: T, token: &str) -> Result<Request<T>, tonic::Status> {
    let mut request = Request::new(message);
    let token = MetadataValue::try_from(token).map_err(|_| tonic::Status::unauthenticated("the token is no text"))?;
    request.metadata_mut().insert("lab-token", token);
    Ok(request)
}

/// A runtime for the lab's tasks: one thread is plenty, the members do the work.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    let built = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    built.map_err(|source| Error::System { what: "cannot start the runtime", source })
}
