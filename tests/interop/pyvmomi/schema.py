#!/usr/bin/env python3
"""Prints src/simulator/schema.txt: the declarations of the types and methods below in pyvmomi's
metadata, for vim25 7.0.3.0. Types that were added or renamed later are refused. Fields that were
added later are omitted.

Usage: schema.py >src/simulator/schema.txt, with the pyvmomi of ../requirements.txt
"""

import re

from pyVmomi import VmomiSupport, vim, vmodl

VERSION = "vim.version.v7_0_3_0"

HEADER = """\
# The declarations of vim25 7.0.3.0 for the types that the simulator knows: the fields in the order
# of the wire, with ? for optional, * for repeated and @ for references, and the parameters of
# methods.
#   enum NAME…
#   managed NAME < BASE = property…
#   data / fault NAME < BASE = field…
#   method NAME < TARGET = parameter…
# These are facts of the public vSphere Web Services API, from the metadata of pyvmomi. Do not edit
# this file. Generate it with the pyvmomi of tests/interop/requirements.txt:
#   python3 tests/interop/pyvmomi/schema.py >src/simulator/schema.txt"""

MANAGED = """
    ServiceInstance SessionManager PropertyCollector PropertyFilter ViewManager ContainerView
    ListView View
    ManagedObjectView ManagedEntity Folder Datacenter ComputeResource ResourcePool HostSystem
    Network Datastore
    VirtualMachine VirtualMachineSnapshot Task TaskManager SearchIndex HostDatastoreBrowser
    ExtensibleManagedObject
    LicenseManager AuthorizationManager OptionManager FileManager EventManager VirtualApp
    ClusterComputeResource
    DistributedVirtualSwitch VmwareDistributedVirtualSwitch HistoryCollector EventHistoryCollector
    EnvironmentBrowser GuestOperationsManager GuestAuthManager GuestFileManager GuestProcessManager
    GuestWindowsRegistryManager GuestAliasManager HostNetworkSystem HostDatastoreSystem
    DistributedVirtualPortgroup OpaqueNetwork
"""

DATA = """
    DynamicData ServiceContent AboutInfo UserSession
    VirtualMachineSummary VirtualMachineConfigSummary VirtualMachineRuntimeInfo
    VirtualMachineQuickStats
    VirtualMachineStorageSummary VirtualMachineGuestSummary VirtualMachineConfigInfo
    VirtualMachineFileInfo
    VirtualMachineFlagInfo VirtualMachineDefaultPowerOpInfo VirtualHardware ToolsConfigInfo
    VirtualMachineBootOptions
    GuestInfo GuestNicInfo NetIpConfigInfo NetIpConfigInfoIpAddress VirtualMachineSnapshotInfo
    VirtualMachineSnapshotTree VirtualMachineQuestionInfo VirtualMachineMessage ChoiceOption
    OptionType
    ElementDescription Description OptionValue
    VirtualMachineFileLayoutEx VirtualMachineFileLayoutExFileInfo
    VirtualMachineFileLayoutExDiskLayout
    VirtualMachineFileLayoutExDiskUnit VirtualMachineFileLayoutExSnapshotLayout
    VirtualMachineStorageInfo
    VirtualMachineUsageOnDatastore VirtualMachineCapability TypeDescription
    VirtualDevice VirtualDeviceConnectInfo VirtualDeviceBackingInfo VirtualDeviceFileBackingInfo
    VirtualDeviceDeviceBackingInfo VirtualDevicePipeBackingInfo VirtualDeviceURIBackingInfo
    VirtualController
    VirtualPCIController VirtualIDEController VirtualPS2Controller VirtualSIOController
    VirtualSCSIController
    VirtualLsiLogicController ParaVirtualSCSIController VirtualKeyboard VirtualPointingDevice
    VirtualPointingDeviceDeviceBackingInfo VirtualMachineVideoCard VirtualMachineVMCIDevice
    VirtualDisk
    VirtualDiskFlatVer2BackingInfo VirtualCdrom VirtualCdromIsoBackingInfo
    VirtualCdromRemotePassthroughBackingInfo
    VirtualEthernetCard VirtualE1000 VirtualE1000e VirtualVmxnet VirtualVmxnet3 VirtualVmxnet2
    VirtualPCNet32
    VirtualSriovEthernetCard VirtualEthernetCardNetworkBackingInfo
    VirtualEthernetCardDistributedVirtualPortBackingInfo VirtualEthernetCardOpaqueNetworkBackingInfo
    DistributedVirtualSwitchPortConnection DVPortgroupConfigInfo DVPortgroupPolicy
    OpaqueNetworkSummary
    VirtualSerialPort VirtualSerialPortPipeBackingInfo VirtualSerialPortURIBackingInfo
    VirtualSerialPortFileBackingInfo VirtualSerialPortDeviceBackingInfo
    VirtualDeviceRemoteDeviceBackingInfo
    DatastoreSummary DatastoreInfo VmfsDatastoreInfo NasDatastoreInfo LocalDatastoreInfo
    HostFileSystemVolume
    HostVmfsVolume HostNasVolume HostLocalFileSystemVolume HostScsiDiskPartition DatastoreCapability
    DatastoreHostMount HostMountInfo
    HostListSummary HostHardwareSummary HostRuntimeInfo HostConfigSummary HostListSummaryQuickStats
    HostSystemIdentificationInfo HostConfigInfo NetworkSummary ComputeResourceSummary
    ResourcePoolSummary
    ResourcePoolRuntimeInfo ResourcePoolResourceUsage ResourceConfigSpec ResourceAllocationInfo
    SharesInfo
    ComputeResourceConfigInfo DatacenterConfigInfo VirtualMachineConfigInfoDatastoreUrlPair
    LatencySensitivity Capability HostCapability HostLicensableResourceInfo HostConfigManager
    HostHardwareInfo HostSystemInfo HostCpuInfo HostCpuPackage HostBIOSInfo
    HostNetworkInfo HostVirtualSwitch HostVirtualSwitchSpec HostVirtualSwitchBridge
    HostVirtualSwitchBondBridge HostPortGroup HostPortGroupSpec HostNetworkPolicy
    HostNetworkSecurityPolicy PhysicalNic PhysicalNicSpec PhysicalNicLinkInfo HostVirtualNic
    HostVirtualNicSpec HostIpConfig HostDnsConfig HostIpRouteConfig
    LicenseManagerLicenseInfo AuthorizationRole KeyAnyValue KeyValue TaskInfo TaskReason
    TaskReasonUser TaskReasonSystem
    LocalizedMethodFault LocalizableMessage TaskDescription
    PropertyFilterSpec PropertySpec ObjectSpec SelectionSpec TraversalSpec RetrieveOptions
    RetrieveResult
    ObjectContent DynamicProperty MissingProperty WaitOptions UpdateSet PropertyFilterUpdate
    ObjectUpdate
    PropertyChange MissingObject EventDescription EventDescriptionEventDetail
    Event SessionEvent UserLoginSessionEvent UserLogoutSessionEvent BadUsernameSessionEvent
    TaskEvent
    VmEvent VmStartingEvent VmPoweredOnEvent VmStoppingEvent VmPoweredOffEvent VmResettingEvent
    VmSuspendingEvent
    VmSuspendedEvent VmResumingEvent VmGuestShutdownEvent VmGuestRebootEvent VmMessageEvent
    VmRemovedEvent
    VirtualMachineTicket UsbScanCodeSpec UsbScanCodeSpecKeyEvent UsbScanCodeSpecModifierType
    EventArgument EntityEventArgument DatacenterEventArgument ComputeResourceEventArgument
    HostEventArgument
    VmEventArgument EventFilterSpec EventFilterSpecByEntity EventFilterSpecByTime
    EventFilterSpecByUsername
    HostDatastoreBrowserSearchSpec HostDatastoreBrowserSearchResults FileQueryFlags
    FileInfo FolderFileInfo IsoImageFileInfo FloppyImageFileInfo VmDiskFileInfo VmConfigFileInfo
    TemplateConfigFileInfo VmLogFileInfo VmNvramFileInfo VmSnapshotFileInfo
    FileQuery FolderFileQuery IsoImageFileQuery FloppyImageFileQuery VmDiskFileQuery
    VmDiskFileQueryFlags VmDiskFileQueryFilter VmConfigFileQuery VmConfigFileQueryFlags
    VmConfigFileQueryFilter TemplateConfigFileQuery VmLogFileQuery VmNvramFileQuery
    VmSnapshotFileQuery
    VirtualMachineConfigSpec VirtualDeviceConfigSpec VirtualMachineBootOptionsBootableDevice
    VirtualMachineBootOptionsBootableCdromDevice VirtualMachineBootOptionsBootableDiskDevice
    VirtualMachineBootOptionsBootableEthernetDevice VirtualMachineBootOptionsBootableFloppyDevice
    VirtualCdromAtapiBackingInfo VirtualCdromPassthroughBackingInfo
    VirtualCdromRemoteAtapiBackingInfo
    VirtualBusLogicController VirtualLsiLogicSASController VirtualSATAController
    VirtualAHCIController
"""

FAULTS = """
    MethodFault RuntimeFault VimFault InvalidPowerState InvalidState TaskInProgress InvalidLogin
    InvalidLocale PasswordExpired
    NoPermission NotAuthenticated SecurityError ManagedObjectNotFound InvalidArgument
    InvalidProperty
    InvalidCollectorVersion RequestCanceled NotSupported NotImplemented MethodNotFound
    InvalidRequest
    ToolsUnavailable RestrictedVersion VmConfigFault GenericVmConfigFault NotEnoughLicenses
    SnapshotFault
    TooManySnapshotLevels InvalidName DuplicateName ConcurrentAccess ResourceInUse
    InsufficientResourcesFault InsufficientCpuResourcesFault InsufficientMemoryResourcesFault
    InsufficientHostCapacityFault InsufficientStandbyResource InsufficientStorageSpace
    InvalidResourcePoolStructureFault NumVirtualCpusExceedsLimit
    InaccessibleDatastore DatastoreNotWritableOnHost InvalidDatastoreState InvalidHostState
    HostNotReachable InvalidLicense CannotAccessFile
    FileFault FileLocked FileNotFound HostCommunication HostNotConnected SystemError NotFound
    InvalidType NoDiskSpace
    Timedout QuestionPending VmToolsUpgradeFault InvalidDatastore InvalidSnapshotFormat
    MemorySnapshotOnIndependentDisk InvalidVmConfig OutOfBounds MksConnectionLimitReached
    FileAlreadyExists CannotCreateFile CannotDeleteFile DirectoryNotEmpty InvalidDatastorePath
    InvalidDeviceSpec InvalidDeviceBacking InvalidDeviceOperation DeviceNotFound
"""

METHODS = {
    "ServiceInstance": "CurrentTime RetrieveServiceContent",
    "SessionManager": """
        Login Logout TerminateSession SessionIsActive AcquireCloneTicket CloneSession
    """,
    "PropertyCollector": """
        CreateFilter RetrieveProperties CheckForUpdates WaitForUpdates CancelWaitForUpdates
        WaitForUpdatesEx
        RetrievePropertiesEx ContinueRetrievePropertiesEx CancelRetrievePropertiesEx
        CreatePropertyCollector
        DestroyPropertyCollector
    """,
    "PropertyFilter": "DestroyPropertyFilter",
    "ViewManager": "CreateListView CreateContainerView CreateInventoryView CreateListViewFromView",
    "View": "DestroyView",
    "ListView": "ModifyListView ResetListView",
    "VirtualMachine": """
        PowerOnVM_Task PowerOffVM_Task ResetVM_Task SuspendVM_Task ShutdownGuest RebootGuest
        StandbyGuest
        CreateSnapshot_Task RevertToCurrentSnapshot_Task RemoveAllSnapshots_Task AnswerVM
        CloneVM_Task
        ReconfigVM_Task UnregisterVM AcquireTicket ConsolidateVMDisks_Task PutUsbScanCodes
        CreateScreenshot_Task
    """,
    "VirtualMachineSnapshot": "RevertToSnapshot_Task RemoveSnapshot_Task RenameSnapshot",
    "Task": "CancelTask",
    "EventManager": """
        CreateCollectorForEvents QueryEvents LogUserEvent PostEvent RetrieveArgumentDescription
    """,
    "HistoryCollector": "SetCollectorPageSize RewindCollector ResetCollector DestroyCollector",
    "EventHistoryCollector": "ReadNextEvents ReadPreviousEvents",
    "SearchIndex": """
        FindByUuid FindByInventoryPath FindByDatastorePath FindAllByUuid FindByIp FindByDnsName
        FindAllByIp
        FindAllByDnsName
    """,
    "HostDatastoreBrowser": "SearchDatastore_Task SearchDatastoreSubFolders_Task",
    "FileManager": """
        MakeDirectory DeleteDatastoreFile_Task MoveDatastoreFile_Task CopyDatastoreFile_Task
    """,
    "Datastore": "RefreshDatastore",
}


def main():
    enums = set()
    print(HEADER)
    for kind, names in (("managed", MANAGED), ("data", DATA), ("fault", FAULTS)):
        for name in names.split():
            declared = declared_type(name)
            print(line(kind, name, base_of(declared), fields_of(declared), enums))
    for target, names in METHODS.items():
        methods = methods_of(declared_type(target))
        for name in names.split():
            print(line("method", name, target, methods[name].params, enums))
    print("enum", *sorted(enums))


def declared_type(name):
    declared = VmomiSupport.GetWsdlType("urn:vim25", name)
    if not is_known(declared._version):
        raise SystemExit(f"{name} is newer than {VERSION}")
    return declared


def is_known(version):
    return VmomiSupport.IsChildVersion(VERSION, version)


def base_of(declared):
    # pyvmomi treats LocalizedMethodFault as the fault itself.
    if declared is vmodl.LocalizedMethodFault:
        return "DynamicData"
    return VmomiSupport.GetWsdlName(declared.__bases__[0])


def fields_of(declared):
    # pyvmomi adds the message of the LocalizedMethodFault to each fault.
    return [
        field
        for field in declared._propList
        if (declared, field.name) != (vmodl.MethodFault, "msg")
    ]


def methods_of(declared):
    """The methods of a managed type and its bases by their names on the wire."""
    inherited = [getattr(ancestor, "_methodInfo", {}) for ancestor in declared.__mro__]
    return {info.wsdlName: info for methods in inherited for info in methods.values()}


def line(kind, name, base, fields, enums):
    """One declaration. The enums among its types are added to `enums`."""
    words = [word(field, enums) for field in fields if is_known(field.version)]
    # On the wire a LocalizedMethodFault carries each fault. pyvmomi unwraps it.
    if name != "LocalizedMethodFault":
        words = [re.sub(":MethodFault$", ":LocalizedMethodFault", word) for word in words]
    return f"{kind} {name} < {base} = {' '.join(words)}".rstrip()


def word(field, enums):
    declared, occurs = field.type, "?" if field.flags & VmomiSupport.F_OPTIONAL else ""
    if issubclass(declared, list):
        declared, occurs = declared.Item, "*"
    name = VmomiSupport.GetWsdlName(declared)
    if issubclass(declared, VmomiSupport.Enum):
        enums.add(name)
    reference = "@" if issubclass(declared, VmomiSupport.ManagedObject) else ""
    return f"{field.name}{occurs}:{reference}{name}"


if __name__ == "__main__":
    main()
