//! Tests of `ReconfigVM_Task`: options, boot order, drives and other devices, and the question about
//! a medium that the guest has locked.

use otter::simulator::{FilesChange, ScreenStage};

use super::*;

/// A machine that is off, and has an empty drive, a serial port and a network card.
const MACHINE: &str = "16";
const ISO: &str = "[isos] iso/Qubes-R4.2.3-x86_64.iso";
const DRIVE: i32 = 3_000;
/// Longer than the firmware shows its screen.
const FIRMWARE: Duration = Duration::from_secs(2);

const CDROM_FIRST: &str = "<bootOrder i:type=\"VirtualMachineBootOptionsBootableCdromDevice\"/>\
                           <bootOrder i:type=\"VirtualMachineBootOptionsBootableDiskDevice\">\
                           <deviceKey>2000</deviceKey></bootOrder>";

impl Lab {
    /// The lab with an image on its datastore.
    async fn with_iso() -> Self {
        let lab = Self::stepped().await;
        let content = world::FileContent::zeros(1 << 30);
        lab.control().change_files(FilesChange::Put { path: ISO.to_owned(), content });
        lab
    }

    /// Changes the machine. Returns the type of the fault, of the call or of its task.
    async fn reconfigure(&self, spec: &str) -> Option<String> {
        let reply = self.reconfigure_call(spec).await;
        match reply.fault() {
            Some(fault) => Some(fault),
            None => self.finish(reply.returned().text()).await.1,
        }
    }

    async fn reconfigure_call(&self, spec: &str) -> Reply {
        let spec = format!("<spec>{spec}</spec>");
        self.call("ReconfigVM_Task", "VirtualMachine", MACHINE, &spec).await
    }

    /// Changes one device. The first text is the operation.
    async fn change_device(&self, operation: &str, kind: &str, device: &str) -> Option<String> {
        self.reconfigure(&device_change(operation, kind, device)).await
    }

    async fn insert(&self, path: &str, connected: bool) -> Option<String> {
        self.reconfigure(&insertion(path, connected)).await
    }

    /// The devices of this type, as texts of the fields at the paths.
    async fn devices(&self, kind: &str, paths: &[&str]) -> Vec<Vec<String>> {
        let config = self.fetch("VirtualMachine", MACHINE, "config").await;
        let hardware = config.returned().child("hardware").unwrap();
        let devices =
            hardware.children_named("device").filter(|device| device.type_name() == Some(kind));
        let field = |device: Element<'_>, path: &str| {
            let path: Vec<&str> = path.split('.').collect();
            device.descend(&path).map(|field| field.text().to_owned()).unwrap_or_default()
        };
        devices.map(|device| paths.iter().map(|path| field(device, path)).collect()).collect()
    }

    /// The image in the first drive, whether it is connected now, and whether at a power-on.
    async fn drive(&self) -> [String; 3] {
        let paths = ["backing.fileName", "connectable.connected", "connectable.startConnected"];
        let drives = self.devices("VirtualCdrom", &paths).await;
        drives.into_iter().next().unwrap().try_into().unwrap()
    }

    async fn config_text(&self, path: &[&str]) -> String {
        let config = self.fetch("VirtualMachine", MACHINE, "config").await;
        config.returned().descend(path).map(|field| field.text().to_owned()).unwrap_or_default()
    }

    /// The number of devices in the boot order.
    async fn boot_order(&self) -> usize {
        let config = self.fetch("VirtualMachine", MACHINE, "config").await;
        let options = config.returned().child("bootOptions").unwrap();
        options.children_named("bootOrder").count()
    }

    async fn power(&self, method: &str) {
        assert_eq!(self.run_task(method, MACHINE, "").await.0, "success", "{method}");
        self.clock.advance(FIRMWARE);
    }

    fn shown_stage(&self) -> ScreenStage {
        self.control().screen(MACHINE).unwrap().stage
    }
}

fn device_change(operation: &str, kind: &str, device: &str) -> String {
    format!(
        "<deviceChange><operation>{operation}</operation><device i:type=\"{kind}\">{device}\
         </device></deviceChange>"
    )
}

fn connectable(start_connected: bool, connected: bool) -> String {
    format!(
        "<connectable><startConnected>{start_connected}</startConnected>\
         <allowGuestControl>true</allowGuestControl><connected>{connected}</connected>\
         </connectable>"
    )
}

/// The change that puts an image into the drive, as clients write it.
fn insertion(path: &str, connected: bool) -> String {
    let device = format!(
        "<key>{DRIVE}</key><backing i:type=\"VirtualCdromIsoBackingInfo\">\
         <fileName>{path}</fileName></backing>{}<controllerKey>200</controllerKey>\
         <unitNumber>0</unitNumber>",
        connectable(true, connected)
    );
    device_change("edit", "VirtualCdrom", &device)
}

/// The change that takes the image out of the drive.
fn ejection() -> String {
    let device = format!(
        "<key>{DRIVE}</key><backing i:type=\"VirtualCdromRemotePassthroughBackingInfo\">\
         <deviceName/><exclusive>false</exclusive></backing>{}",
        connectable(false, false)
    );
    device_change("edit", "VirtualCdrom", &device)
}

fn owned(texts: [&str; 3]) -> [String; 3] {
    texts.map(str::to_owned)
}

#[tokio::test]
async fn a_machine_boots_from_the_image_in_its_drive_if_the_drive_comes_first() {
    let lab = Lab::with_iso().await;
    let empty = lab.drive().await;
    assert_eq!(empty, owned(["", "false", "false"]));
    assert_eq!(lab.insert(ISO, false).await, None);
    assert_eq!(lab.drive().await, owned([ISO, "false", "true"]));
    lab.power("PowerOnVM_Task").await;
    assert_eq!(lab.drive().await, owned([ISO, "true", "true"]));
    assert_eq!(lab.shown_stage(), ScreenStage::Menu, "the disk comes first");
    lab.power("PowerOffVM_Task").await;
    assert_eq!(lab.drive().await, owned([ISO, "false", "true"]));

    let order = format!("<bootOptions><bootDelay>2000</bootDelay>{CDROM_FIRST}</bootOptions>");
    assert_eq!(lab.reconfigure(&order).await, None);
    assert_eq!(lab.config_text(&["bootOptions", "bootDelay"]).await, "2000");
    assert_eq!(lab.boot_order().await, 2);
    lab.power("PowerOnVM_Task").await;
    assert_eq!(lab.shown_stage(), ScreenStage::Installer);
    for text in ["Booting from the CD-ROM", "Qubes-R4.2.3-x86_64.iso", "Qubes installer"] {
        assert!(lab.control().shows(MACHINE, text), "{text}");
    }
    // A client that only looks at the screen sees it too, and a reset boots from it again.
    lab.power("ResetVM_Task").await;
    assert_eq!(lab.shown_stage(), ScreenStage::Installer);
    lab.power("PowerOffVM_Task").await;
    // An entry of the base type empties the order.
    let reset = "<bootOptions><bootOrder/></bootOptions>";
    assert_eq!(lab.reconfigure(reset).await, None);
    assert_eq!(lab.boot_order().await, 0);
    lab.power("PowerOnVM_Task").await;
    assert_eq!(lab.shown_stage(), ScreenStage::Menu);
    let unknown = CDROM_FIRST.replace("2000", "2009");
    let unknown = format!("<bootOptions>{unknown}</bootOptions>");
    assert_eq!(lab.reconfigure(&unknown).await.as_deref(), Some("InvalidArgument"));
}

#[tokio::test]
async fn an_eject_asks_if_the_guest_has_locked_the_medium() {
    let lab = Lab::with_iso().await;
    let boots = format!("<bootOptions>{CDROM_FIRST}</bootOptions>");
    assert_eq!(lab.insert(ISO, false).await, None);
    assert_eq!(lab.reconfigure(&boots).await, None);
    lab.power("PowerOnVM_Task").await;
    for (choice, fault, image) in [("1", Some("GenericVmConfigFault"), ISO), ("0", None, "")] {
        let task = lab.reconfigure_call(&ejection()).await.returned().text().to_owned();
        lab.control().finish_task(&task);
        let runtime = lab.fetch("VirtualMachine", MACHINE, "runtime").await;
        let question = runtime.returned().child("question").expect("a question");
        let text = question.child_text("text").unwrap();
        assert!(text.starts_with("msg.cdromdisconnect.locked: "), "{text}");
        assert_eq!(
            question.descend(&["message", "id"]).unwrap().text(),
            "msg.cdromdisconnect.locked"
        );
        assert_eq!(lab.drive().await[0], ISO, "nothing changes before the answer");
        let busy = lab.reconfigure(&ejection()).await;
        assert_eq!(busy.as_deref(), Some("TaskInProgress"));
        let answer = format!(
            "<questionId>{}</questionId><answerChoice>{choice}</answerChoice>",
            question.child_text("id").unwrap()
        );
        let answered = lab.call("AnswerVM", "VirtualMachine", MACHINE, &answer).await;
        assert!(answered.is_empty_answer(), "{:?}", answered.fault());
        assert_eq!(lab.finish(&task).await.1.as_deref(), fault);
        assert_eq!(lab.drive().await[0], image);
    }
    // A guest that does not use the medium lets it go at once, unless a test makes it lock.
    assert_eq!(lab.insert(ISO, true).await, None);
    assert_eq!(lab.drive().await, owned([ISO, "true", "true"]));
    assert_eq!(lab.reconfigure(&ejection()).await, None);
    assert_eq!(lab.insert(ISO, true).await, None);
    let lock = FilesChange::LockDrives { machine: MACHINE.to_owned(), locked: true };
    lab.control().change_files(lock);
    let task = lab.reconfigure_call(&ejection()).await.returned().text().to_owned();
    lab.control().finish_task(&task);
    let asked = |world: &world::World| world.machine(MACHINE).unwrap().question.is_some();
    assert!(lab.control().look(asked));
    // The end of the guest is an answer too.
    lab.control().mutate(world::World::reboot_host);
    assert!(!lab.control().look(asked));
}

#[tokio::test]
async fn an_image_in_a_running_machine_is_in_use_and_a_missing_one_is_not_connected() {
    let lab = Lab::with_iso().await;
    let delete = format!("<name>{ISO}</name>");
    let delete = async || {
        let reply =
            lab.call("DeleteDatastoreFile_Task", "FileManager", "ha-nfc-file-manager", &delete);
        lab.finish(reply.await.returned().text()).await.1
    };
    assert_eq!(lab.insert(ISO, false).await, None);
    lab.power("PowerOnVM_Task").await;
    assert_eq!(delete().await.as_deref(), Some("FileLocked"));
    let missing = lab.insert("[isos] iso/none.iso", true).await;
    assert_eq!(missing.as_deref(), Some("GenericVmConfigFault"));
    assert_eq!(lab.drive().await[0], ISO);
    lab.power("PowerOffVM_Task").await;
    assert_eq!(delete().await, None);
    lab.power("PowerOnVM_Task").await;
    assert_eq!(lab.drive().await, owned([ISO, "false", "true"]));
    let status = lab.devices("VirtualCdrom", &["connectable.status"]).await;
    assert_eq!(status, [["unrecoverableError"]]);
}

#[tokio::test]
async fn options_of_a_machine_change_and_a_stale_version_is_refused() {
    let lab = Lab::stepped().await;
    let version = lab.config_text(&["changeVersion"]).await;
    lab.clock.advance(Duration::from_secs(1));
    let spec = format!(
        "<changeVersion>{version}</changeVersion><name>new%2fname</name>\
         <annotation>noted</annotation><numCPUs>3</numCPUs><memoryMB>2048</memoryMB>\
         <extraConfig><key>guestinfo.a</key><value i:type=\"x:string\" \
         xmlns:x=\"http://www.w3.org/2001/XMLSchema\">b</value></extraConfig>"
    );
    assert_eq!(lab.reconfigure(&spec).await, None);
    assert_eq!(lab.reconfigure(&spec).await.as_deref(), Some("ConcurrentAccess"));
    for (path, value) in [
        (&["name"][..], "new%2fname"),
        (&["annotation"][..], "noted"),
        (&["hardware", "numCPU"][..], "3"),
        (&["hardware", "memoryMB"][..], "2048"),
    ] {
        assert_eq!(lab.config_text(path).await, value, "{path:?}");
    }
    let option = async || {
        let config = lab.fetch("VirtualMachine", MACHINE, "config").await;
        let options = config.returned().children_named("extraConfig");
        let mut found = options.filter(|option| option.child_text("key") == Some("guestinfo.a"));
        found.next().map(|option| option.child_text("value").unwrap().to_owned())
    };
    assert_eq!(option().await.as_deref(), Some("b"));
    let remove = "<extraConfig><key>guestinfo.a</key><value i:type=\"x:string\" \
                  xmlns:x=\"http://www.w3.org/2001/XMLSchema\"></value></extraConfig>";
    assert_eq!(lab.reconfigure(remove).await, None);
    assert_eq!(option().await, None);
    for (spec, fault) in [
        ("<name></name>", "InvalidName"),
        ("<numCPUs>0</numCPUs>", "InvalidArgument"),
        ("<memoryMB>5</memoryMB>", "InvalidArgument"),
        ("<firmware>bios</firmware>", "NotSupported"),
    ] {
        assert_eq!(lab.reconfigure(spec).await.as_deref(), Some(fault), "{spec}");
    }
    lab.power("PowerOnVM_Task").await;
    let refused = lab.reconfigure("<annotation>x</annotation><numCPUs>4</numCPUs>").await;
    assert_eq!(refused.as_deref(), Some("InvalidPowerState"));
    assert_eq!(lab.config_text(&["annotation"]).await, "noted", "all or nothing");
    lab.control().set_read_only_licence(true);
    let refused = lab.reconfigure("<annotation>x</annotation>").await;
    assert_eq!(refused.as_deref(), Some("RestrictedVersion"));
}

#[tokio::test]
async fn devices_are_added_edited_and_removed() {
    let lab = Lab::with_iso().await;
    let keys = async |kind: &str| -> Vec<String> {
        lab.devices(kind, &["key"]).await.into_iter().map(|mut fields| fields.remove(0)).collect()
    };
    // A controller and a drive at it, in one change, with keys of the client.
    let controller = "<key>-1</key><busNumber>0</busNumber>";
    let drive = format!(
        "<key>-2</key><backing i:type=\"VirtualCdromIsoBackingInfo\"><fileName>{ISO}</fileName>\
         </backing>{}<controllerKey>-1</controllerKey><unitNumber>0</unitNumber>",
        connectable(true, true)
    );
    let both = device_change("add", "VirtualAHCIController", controller)
        + &device_change("add", "VirtualCdrom", &drive);
    assert_eq!(lab.reconfigure(&both).await, None);
    assert_eq!(keys("VirtualCdrom").await, ["3000", "16000"]);
    assert_eq!(keys("VirtualAHCIController").await, ["15000"]);
    let used = "<key>15000</key><busNumber>0</busNumber>";
    let refused = lab.change_device("remove", "VirtualAHCIController", used).await;
    assert_eq!(refused.as_deref(), Some("InvalidDeviceOperation"), "it has a drive");
    assert_eq!(lab.change_device("remove", "VirtualCdrom", "<key>16000</key>").await, None);
    let missing = lab.change_device("remove", "VirtualCdrom", "<key>16000</key>").await;
    assert_eq!(missing.as_deref(), Some("DeviceNotFound"));

    let network = "<backing i:type=\"VirtualEthernetCardNetworkBackingInfo\">\
                   <deviceName>VM Network</deviceName></backing>";
    let card = format!("<key>-3</key>{network}{}", connectable(true, true));
    assert_eq!(lab.change_device("add", "VirtualVmxnet3", &card).await, None);
    assert_eq!(keys("VirtualVmxnet3").await, ["4001"]);
    let nowhere = card.replace("VM Network", "none");
    let wrong = lab.change_device("add", "VirtualVmxnet3", &nowhere).await;
    assert_eq!(wrong.as_deref(), Some("InvalidDeviceBacking"));
    let unplugged = format!("<key>4001</key>{}", connectable(false, false));
    assert_eq!(lab.change_device("edit", "VirtualVmxnet3", &unplugged).await, None);
    let plugged = lab.devices("VirtualVmxnet3", &["connectable.startConnected"]).await;
    assert_eq!(plugged, [["false"]]);
    assert_eq!(lab.change_device("remove", "VirtualVmxnet3", "<key>4001</key>").await, None);
    assert!(keys("VirtualVmxnet3").await.is_empty());

    let port = "<key>-4</key><backing i:type=\"VirtualSerialPortURIBackingInfo\">\
                <serviceURI>tcp://:0</serviceURI><direction>server</direction></backing>\
                <yieldOnPoll>true</yieldOnPoll>";
    assert_eq!(lab.change_device("add", "VirtualSerialPort", port).await, None);
    assert_eq!(keys("VirtualSerialPort").await, ["9000", "9001", "9002"]);
    lab.power("PowerOnVM_Task").await;
    let listens = |control: &Control| {
        control.serial_port(MACHINE, "ttyS2").is_some_and(|port| port.is_listening)
    };
    bounded(lab.control().until(listens)).await;
    lab.power("PowerOffVM_Task").await;

    let disk = |file: &str| {
        format!(
            "<deviceChange><operation>add</operation>{file}<device i:type=\"VirtualDisk\">\
             <key>-5</key><backing i:type=\"VirtualDiskFlatVer2BackingInfo\"><fileName></fileName>\
             <diskMode>persistent</diskMode></backing><controllerKey>1000</controllerKey>\
             <unitNumber>1</unitNumber><capacityInKB>1024</capacityInKB></device></deviceChange>"
        )
    };
    let create = disk("<fileOperation>create</fileOperation>");
    assert_eq!(lab.reconfigure(&create).await, None);
    let disks = lab.devices("VirtualDisk", &["key", "backing.fileName", "capacityInKB"]).await;
    let folder = "[datastore1] qubes-4.2-sdw-staging/qubes-4.2-sdw-staging";
    let descriptor = format!("{folder}_1.vmdk");
    assert_eq!(disks[1], ["2001", descriptor.as_str(), "1024"]);
    let extent = format!("{folder}_1-flat.vmdk");
    assert_eq!(lab.control().file_length(&extent), Some(1 << 20));
    let grow = "<key>2001</key><capacityInKB>2048</capacityInKB>";
    assert_eq!(lab.change_device("edit", "VirtualDisk", grow).await, None);
    let shrink = "<key>2001</key><capacityInKB>10</capacityInKB>";
    let refused = lab.change_device("edit", "VirtualDisk", shrink).await;
    assert_eq!(refused.as_deref(), Some("InvalidDeviceSpec"));
    // Without its file, a removed disk stays on the datastore.
    let remove = "<key>2001</key><capacityInKB>2048</capacityInKB>";
    assert_eq!(lab.change_device("remove", "VirtualDisk", remove).await, None);
    assert_eq!(keys("VirtualDisk").await, ["2000"]);
    assert_eq!(lab.control().file_length(&extent), Some(2 << 20));
    let unknown = lab.change_device("add", "VirtualUSBController", "<key>-6</key>").await;
    assert_eq!(unknown.as_deref(), Some("InvalidDeviceSpec"));
}

#[tokio::test]
async fn a_revert_brings_back_the_drives_and_the_boot_order() {
    let lab = Lab::with_iso().await;
    let order = format!("<bootOptions>{CDROM_FIRST}</bootOptions>");
    assert_eq!(lab.insert(ISO, false).await, None);
    assert_eq!(lab.reconfigure(&order).await, None);
    let revert =
        lab.call("RevertToSnapshot_Task", "VirtualMachineSnapshot", "16-snapshot-3", "").await;
    assert_eq!(lab.finish(revert.returned().text()).await.0, "success");
    assert_eq!(lab.drive().await, owned(["", "false", "false"]));
    assert_eq!(lab.boot_order().await, 0);
}

#[tokio::test]
async fn a_scenario_has_drives_with_images_and_a_boot_order() {
    let text = format!(
        "[[datastores]]\nid = \"d\"\nname = \"isos\"\ncapacity_gb = 100\nfree_gb = 50\n\
         folders = [\"empty\"]\n\
         files = [{{ path = \"iso/Qubes-R4.2.3-x86_64.iso\", text = \"CD001\", bytes = 2_000 }}]\n\
         [[machines]]\nid = \"{MACHINE}\"\nname = \"m\"\ndatastore = \"isos\"\n\
         cdroms = [{{ iso = \"{ISO}\", locked = true }}, {{ }}]\n\
         boot = {{ order = [\"cdrom\", \"disk\"], delay_ms = 500 }}\n"
    );
    let mut lab = Lab::start(Scenario::from_toml(&text).unwrap()).await;
    lab.log_in().await;
    assert_eq!(lab.control().file_length(ISO), Some(2_000));
    lab.power("PowerOnVM_Task").await;
    assert_eq!(lab.shown_stage(), ScreenStage::Installer);
    let drives = lab.devices("VirtualCdrom", &["key", "controllerKey", "unitNumber"]).await;
    assert_eq!(drives, [["3000", "200", "0"], ["3001", "200", "1"]]);
    for (wrong, path) in [
        (text.replace(ISO, "iso/a.iso"), "machines[0].cdroms"),
        (text.replace("{ }]", "{ }, { }, { }, { }]"), "machines[0].cdroms"),
        (text.replace("\"disk\"]", "\"network\"]"), "machines[0].boot"),
        (text.replace("iso/Qubes", "../Qubes"), "datastores[0].files[0]"),
    ] {
        let error = Scenario::from_toml(&wrong).unwrap_err().to_string();
        assert!(error.contains(path), "{error}");
    }
}
