//! The way into this process: listens to an [`EventTransport`], again and again.

use std::{pin::pin, sync::Arc};

use async_trait::async_trait;
use order_core::{BrokerError, EventReceiver, EventTransport, OrderEvent, Topic, TopicChange};
use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::outage::{Outage, PAUSE_MAX};

/// Passes what `transport` hears to `receiver`, until `stop`. A connection that is lost is
/// followed by another one after at most 5 s, with jitter.
///
/// # Cancel safety
/// May be dropped at any point.
pub async fn run_inlet(
    transport: Arc<dyn EventTransport>,
    receiver: Arc<dyn EventReceiver>,
    stop: CancellationToken,
) {
    let receiver = Arc::new(Observed {
        receiver,
        listens: Notify::new(),
    });
    stop.run_until_cancelled(listen_forever(&*transport, &receiver))
        .await;
}

async fn listen_forever(transport: &dyn EventTransport, receiver: &Arc<Observed>) {
    let mut outage = Outage::new("listening to events of other processes");
    loop {
        let error = listen(transport, receiver, &mut outage).await;
        sleep(outage.fail(&error.chain())).await;
    }
}

/// Listens once. The outage is over when the connection has held for as long as the longest
/// pause: one that is lost again and again must neither fill the log nor have the store read
/// every few milliseconds.
async fn listen(
    transport: &dyn EventTransport,
    receiver: &Arc<Observed>,
    outage: &mut Outage,
) -> BrokerError {
    let mut listening = pin!(transport.listen(Arc::clone(receiver) as _));
    let steady = async {
        receiver.listens.notified().await;
        sleep(PAUSE_MAX).await;
    };
    tokio::select! {
        biased;
        Err(error) = &mut listening => return error,
        () = steady => outage.end(),
    }
    let Err(error) = listening.await;
    error
}

/// Passes everything on, and tells when the transport hears everything.
struct Observed {
    receiver: Arc<dyn EventReceiver>,
    listens: Notify,
}

#[async_trait]
impl EventReceiver for Observed {
    fn receive(&self, events: &[OrderEvent]) {
        self.receiver.receive(events);
    }

    fn is_watched(&self) -> bool {
        self.receiver.is_watched()
    }

    async fn until_watched(&self) {
        self.receiver.until_watched().await;
    }

    fn watched(&self) -> Vec<Topic> {
        self.receiver.watched()
    }

    async fn topic_changes(&self) -> Vec<TopicChange> {
        self.receiver.topic_changes().await
    }

    fn heard(&self, topics: &[Topic]) {
        self.receiver.heard(topics);
    }

    fn resync(&self) {
        self.receiver.resync();
        self.listens.notify_one();
    }
}
