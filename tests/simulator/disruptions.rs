//! Tests of every disruption of calls, and of changes of the host.

use super::*;

async fn call(lab: &Lab) -> reqwest::Result<Reply> {
    lab.send("PowerOnVM_Task", "VirtualMachine", "16", "").await
}

#[tokio::test]
async fn calls_are_disrupted_once_each_and_counted() {
    let lab = Lab::stepped().await;
    let control = lab.control();
    let fault = Fault::new("HostCommunication", "Unable to communicate with the remote host.");
    let planned = control.disrupt("PowerOnVM_Task", 1, Some(1), Disruption::Fault(fault));
    let first = call(&lab).await.unwrap().returned().text().to_owned();
    assert_eq!(planned.delivered(), 0);
    assert_eq!(call(&lab).await.unwrap().fault().as_deref(), Some("HostCommunication"));
    assert_eq!((planned.delivered(), control.calls("PowerOnVM_Task")), (1, 2));
    assert_eq!(control.calls_of_operation("op-PowerOnVM_Task").len(), 2);
    control.finish_task(&first);
    assert_eq!(lab.run_task("PowerOffVM_Task", "16", "").await.0, "success");

    let planned = control.disrupt_next("PowerOnVM_Task", Disruption::CloseBeforeRunning);
    assert!(call(&lab).await.is_err());
    assert_eq!((planned.delivered(), control.running_tasks().len()), (1, 1));
    for (what, tasks) in [(Disruption::CloseAfterRunning, 2), (Disruption::CloseMidAnswer, 2)] {
        let planned = control.disrupt_next("PowerOnVM_Task", what);
        assert!(call(&lab).await.is_err());
        assert_eq!((planned.delivered(), control.running_tasks().len()), (1, tasks));
        control.finish_task(control.running_tasks().last().unwrap());
        assert_eq!(lab.run_task("PowerOffVM_Task", "16", "").await.0, "success");
    }

    let html =
        Disruption::Answer { status: 503, content_type: "text/html", body: "<html>".to_owned() };
    control.disrupt_next("PowerOnVM_Task", html);
    assert_eq!(call(&lab).await.unwrap().status, 503);
    control.disrupt_next("*", Disruption::EmptyAnswer);
    assert!(call(&lab).await.unwrap().is_empty_answer());
    let planned = control.disrupt_next("PowerOnVM_Task", Disruption::NeverAnswer { run: true });
    tokio::select! {
        reply = call(&lab) => panic!("answered: {:?}", reply.map(|reply| reply.status)),
        () = bounded(control.until(|control| control.running_tasks().len() == 2)) => {}
    }
    assert_eq!(planned.delivered(), 1);
}

#[tokio::test]
async fn tasks_fail_and_vanish() {
    let lab = Lab::stepped().await;
    let fault = Fault::new("NoDiskSpace", "Insufficient disk space on datastore 'datastore1'.")
        .with("file", "x")
        .with("datastore", "datastore1");
    lab.control().fail_next_task("PowerOnVM_Task", fault);
    assert_eq!(lab.run_task("PowerOnVM_Task", "16", "").await.1.as_deref(), Some("NoDiskSpace"));
    assert_eq!(lab.power_state("16").await, "poweredOff");
    let task = lab.start_task("PowerOnVM_Task", "16", "").await;
    lab.control().vanish_tasks();
    assert_eq!(
        lab.fetch("Task", &task, "info").await.fault().as_deref(),
        Some("ManagedObjectNotFound")
    );
    lab.control().finish_task(&task);
    assert_eq!(lab.power_state("16").await, "poweredOn");
}

#[tokio::test]
async fn hostd_restarts_and_forgets_all_but_the_machines() {
    let mut lab = Lab::stepped().await;
    lab.watch_machines(&["name"]).await;
    let version = lab.new_updates("").await.version();
    let restart = async {
        lab.control().until(|control| control.pending_waits() == 1).await;
        lab.control()
            .restart_hostd(HostdRestart { down: Some(DownMode::Refuse), drop_running: true });
    };
    let parameters = format!("<version>{version}</version>");
    let wait =
        lab.send("WaitForUpdatesEx", "PropertyCollector", "ha-property-collector", &parameters);
    let (cut, ()) = bounded(async { tokio::join!(wait, restart) }).await;
    assert!(cut.is_err());
    assert!(call(&lab).await.is_err());
    lab.control().resume();
    assert_eq!(call(&lab).await.unwrap().fault().as_deref(), Some("NotAuthenticated"));
    lab.cookie = None;
    lab.log_in().await;
    assert_eq!(lab.new_updates(&version).await.fault().as_deref(), Some("InvalidCollectorVersion"));
    assert_eq!(lab.power_state("17").await, "poweredOn");
    assert!(lab.control().running_tasks().is_empty());
    lab.control()
        .restart_hostd(HostdRestart { down: Some(DownMode::Unavailable), drop_running: false });
    assert_eq!(call(&lab).await.unwrap().status, 503);
    lab.control().resume();
    lab.control().reboot_host();
    lab.cookie = None;
    lab.log_in().await;
    assert_eq!(lab.power_state("17").await, "poweredOff");
    lab.control().refuse_logins(true);
    lab.cookie = None;
    assert_eq!(lab.login("root", "otter").await.unwrap().fault().as_deref(), Some("InvalidLogin"));
}

#[tokio::test]
async fn answers_are_compressed_when_asked() {
    let lab = Lab::stepped().await;
    let client = lab.client.post(format!("{}/sdk", lab.simulator.url()));
    let envelope = "<e:Envelope xmlns:e=\"http://schemas.xmlsoap.org/soap/envelope/\"><e:Body>\
                    <RetrieveServiceContent xmlns=\"urn:vim25\"><_this type=\"ServiceInstance\">ServiceInstance</_this>\
                    </RetrieveServiceContent></e:Body></e:Envelope>";
    let response =
        client.header("Accept-Encoding", "gzip, deflate").body(envelope).send().await.unwrap();
    assert_eq!(response.headers()["content-encoding"], "gzip");
    assert_eq!(lab.post(envelope.to_owned()).await.unwrap().encoding, None);
    assert_eq!(
        lab.client.get(lab.simulator.url() + "/nowhere").send().await.unwrap().status(),
        404
    );
}
