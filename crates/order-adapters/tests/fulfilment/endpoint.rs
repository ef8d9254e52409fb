//! An HTTP/1.1 server that records what it is sent and answers as a test says, also in ways
//! a proper server would not.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

/// Longer than anything here takes.
const TIME_MAX: Duration = Duration::from_mins(1);

/// A recorded request.
#[derive(Clone)]
pub(crate) struct Request {
    /// Method, target and version.
    pub(crate) line: String,
    headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// The value of a header, by its name in lower case.
    pub(crate) fn header(&self, name: &str) -> &str {
        &self.headers[name]
    }

    pub(crate) fn has_header(&self, name: &str) -> bool {
        self.headers.contains_key(name)
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }
}

#[derive(Clone)]
enum Body {
    Whole(String),
    /// Comes until the client hangs up.
    Endless,
    /// Is announced, and the connection is closed.
    BrokenOff,
}

/// What to answer.
#[derive(Clone)]
pub(crate) struct Answer {
    /// Without one, nothing is answered at all.
    status: Option<u16>,
    headers: String,
    body: Body,
}

impl Answer {
    pub(crate) fn status(status: u16) -> Self {
        Self {
            status: Some(status),
            headers: String::new(),
            body: Body::Whole(String::new()),
        }
    }

    pub(crate) fn never() -> Self {
        Self {
            status: None,
            ..Self::status(0)
        }
    }

    pub(crate) fn endless(status: u16) -> Self {
        Self {
            body: Body::Endless,
            ..Self::status(status)
        }
    }

    pub(crate) fn broken_off(self) -> Self {
        Self {
            body: Body::BrokenOff,
            ..self
        }
    }

    pub(crate) fn header(self, name: &str, value: &str) -> Self {
        Self {
            headers: format!("{}{name}: {value}\r\n", self.headers),
            ..self
        }
    }

    pub(crate) fn body(self, content_type: &str, body: &str) -> Self {
        Self {
            body: Body::Whole(body.to_owned()),
            ..self.header("Content-Type", content_type)
        }
    }

    /// Writes the answer and counts what is sent of an endless body; whether the connection
    /// can be used again.
    async fn write(&self, stream: &mut TcpStream, n_sent: &AtomicUsize) -> io::Result<bool> {
        let Some(status) = self.status else {
            // Reading ends when the client hangs up.
            stream.read_u8().await?;
            return Ok(false);
        };
        let len = match &self.body {
            Body::Whole(body) => body.len(),
            Body::Endless | Body::BrokenOff => usize::MAX >> 8,
        };
        let length = match status {
            204 | 304 => String::new(),
            _ => format!("Content-Length: {len}\r\n"),
        };
        let head = format!("HTTP/1.1 {status} Whatever\r\n{length}{}\r\n", self.headers);
        stream.write_all(head.as_bytes()).await?;
        match &self.body {
            Body::Whole(body) => stream.write_all(body.as_bytes()).await?,
            Body::Endless => loop {
                let n_bytes = stream.write(&[b'x'; 8 * 1024]).await?;
                n_sent.fetch_add(n_bytes, Ordering::Relaxed);
            },
            Body::BrokenOff => return Ok(false),
        }
        Ok(true)
    }
}

type Script = dyn Fn(usize) -> Answer + Send + Sync;

struct State {
    script: Box<Script>,
    requests: Mutex<Vec<Request>>,
    /// Connections accepted and closed so far.
    connections: watch::Sender<(usize, usize)>,
    /// Bytes of endless bodies that the client, or the system on its behalf, has taken.
    n_sent: AtomicUsize,
}

/// A running server. Ends when it is dropped.
pub(crate) struct Endpoint {
    address: SocketAddr,
    state: Arc<State>,
    _tasks: JoinSet<()>,
}

impl Endpoint {
    /// Starts a server that answers its n-th request, counted from 0, with `script(n)`.
    pub(crate) async fn start(script: impl Fn(usize) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let state = Arc::new(State {
            script: Box::new(script),
            requests: Mutex::default(),
            connections: watch::Sender::new((0, 0)),
            n_sent: AtomicUsize::new(0),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&state)));
        Self {
            address,
            state,
            _tasks: tasks,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.state.requests.lock().expect("not poisoned").clone()
    }

    pub(crate) fn n_connections(&self) -> usize {
        self.state.connections.borrow().0
    }

    pub(crate) fn n_sent(&self) -> usize {
        self.state.n_sent.load(Ordering::Relaxed)
    }

    /// Waits until this many requests have arrived.
    pub(crate) async fn wait_for_requests(&self, n: usize) {
        let arrived = async {
            while self.requests().len() < n {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(TIME_MAX, arrived).await.expect("requests arrive");
    }

    /// Waits until the client has closed a connection.
    pub(crate) async fn wait_until_closed(&self) {
        let mut connections = self.state.connections.subscribe();
        let closed = connections.wait_for(|(_, n_closed)| *n_closed > 0);
        timeout(TIME_MAX, closed)
            .await
            .expect("the client closes the connection")
            .expect("the server runs");
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        state.connections.send_modify(|(n_open, _)| *n_open += 1);
        let state = Arc::clone(&state);
        connections.spawn(async move {
            // It ends with an error when the client hangs up, which is what some tests want.
            let _ = serve(stream, &state).await;
            state
                .connections
                .send_modify(|(_, n_closed)| *n_closed += 1);
        });
    }
}

async fn serve(stream: TcpStream, state: &State) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let request = read_request(&mut stream).await?;
        let n = {
            let mut requests = state.requests.lock().expect("not poisoned");
            requests.push(request);
            requests.len() - 1
        };
        let answer = (state.script)(n);
        if !answer.write(stream.get_mut(), &state.n_sent).await? {
            return Ok(());
        }
    }
}

async fn read_request(stream: &mut BufReader<TcpStream>) -> io::Result<Request> {
    let line = read_line(stream).await?;
    let mut headers = HashMap::new();
    loop {
        let header = read_line(stream).await?;
        if header.is_empty() {
            break;
        }
        let (name, value) = header.split_once(": ").ok_or(io::ErrorKind::InvalidData)?;
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let len = headers
        .get("content-length")
        .and_then(|len| len.parse().ok());
    let mut body = vec![0; len.unwrap_or_default()];
    stream.read_exact(&mut body).await?;
    Ok(Request {
        line,
        headers,
        body,
    })
}

async fn read_line(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}
