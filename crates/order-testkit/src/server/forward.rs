//! A TCP forwarder: one stable address for servers that take turns, as a DNS name or a load
//! balancer gives it.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// Forwards each connection to the server that was the target when the connection began.
/// Dropping it closes all connections.
#[derive(Debug)]
pub struct Forwarder {
    address: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
    is_frozen: watch::Sender<bool>,
    _accepting: JoinSet<()>,
}

impl Forwarder {
    /// Listens on a free loopback port. Fails if there is none.
    pub async fn start(target: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let target = Arc::new(Mutex::new(target));
        let is_frozen = watch::Sender::new(false);
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, Arc::clone(&target), is_frozen.subscribe()));
        Ok(Self {
            address,
            target,
            is_frozen,
            _accepting: accepting,
        })
    }

    /// The address to connect to.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the target of new connections. Existing connections stay with theirs.
    pub fn retarget(&self, target: SocketAddr) {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
    }

    /// Stops all bytes, as a server that is frozen or a network that drops packets does:
    /// connections stay open and new ones are accepted. When it thaws, connections from before
    /// are closed.
    pub fn freeze(&self, is_frozen: bool) {
        self.is_frozen.send_replace(is_frozen);
    }
}

async fn accept(
    listener: TcpListener,
    target: Arc<Mutex<SocketAddr>>,
    is_frozen: watch::Receiver<bool>,
) {
    // Dropped with this task, which aborts the connections.
    let mut connections = JoinSet::new();
    while let Ok((mut client, _)) = listener.accept().await {
        let target = *target.lock().unwrap_or_else(PoisonError::into_inner);
        let mut is_frozen = is_frozen.clone();
        connections.spawn(async move {
            let forwarding = async {
                // A server that is down closes the connection of the client.
                if let Ok(mut server) = TcpStream::connect(target).await {
                    let _ended = copy_bidirectional(&mut client, &mut server).await;
                }
            };
            tokio::select! {
                biased;
                _ = is_frozen.wait_for(|is_frozen| *is_frozen) => {}
                () = forwarding => return,
            }
            let _ = is_frozen.wait_for(|is_frozen| !is_frozen).await;
        });
        while connections.try_join_next().is_some() {}
    }
}
