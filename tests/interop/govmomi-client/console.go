package main

import (
	"bufio"
	"crypto/rand"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"image"
	"image/png"
	"io"
	"net/http"
	"net/url"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// console makes the calls of vm.console -wss and vm.console -capture, and opens the link as a
// viewer does.
func (r *run) console() error {
	off, err := r.choose("that is off", isIdle)
	if err != nil {
		return err
	}
	machine, err := r.choose("that is on", func(machine mo.VirtualMachine) bool {
		return machine.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn
	})
	if err != nil {
		return err
	}
	webmks := string(types.VirtualMachineTicketTypeWebmks)
	ticket, err := machine.AcquireTicket(r.ctx, webmks)
	if err != nil {
		return err
	}
	_, isOff := off.AcquireTicket(r.ctx, webmks)
	_, noDevice := machine.AcquireTicket(r.ctx, string(types.VirtualMachineTicketTypeDevice))
	picture, err := r.capture(machine)
	if err := first(
		err,
		expectFault(isOff, types.InvalidPowerState{}),
		expectFault(noDevice, types.NotSupported{}),
	); err != nil {
		return err
	}

	link, err := url.Parse(fmt.Sprintf("wss://%s:%d/ticket/%s", ticket.Host, ticket.Port, ticket.Ticket))
	if err != nil {
		return err
	}
	// The ticket names the usual port and no host: consoles are at the address of the API.
	if err := expect(link.Host, ":443"); err != nil {
		return err
	}
	link.Host = r.client.URL().Host
	viewer, err := openWebSocket(link, ticket.SslThumbprint)
	if err != nil {
		return err
	}
	defer viewer.connection.Close()
	name, size, err := viewer.startRFB()
	if err != nil {
		return err
	}
	expected, err := machine.ObjectName(r.ctx)
	if err := first(
		err,
		expect(name, expected),
		expect(size, picture),
		r.consolesAre(machine, 1),
	); err != nil {
		return err
	}
	_, used := openWebSocket(link, ticket.SslThumbprint)
	return first(
		expect(fmt.Sprint(used), "404 Not Found for the ticket"),
		viewer.close(),
		r.consolesAre(machine, 0),
	)
}

// capture downloads the picture of a screen, and returns its size.
func (r *run) capture(machine *object.VirtualMachine) (image.Point, error) {
	address := r.client.URL()
	address.Path = "/screen"
	address.RawQuery = url.Values{"id": []string{machine.Reference().Value}}.Encode()
	body, _, err := r.client.Download(r.ctx, address, &soap.DefaultDownload)
	if err != nil {
		return image.Point{}, err
	}
	defer body.Close()
	picture, err := png.Decode(body)
	if err != nil {
		return image.Point{}, err
	}
	return picture.Bounds().Size(), nil
}

// consolesAre waits until the machine counts this number of consoles.
func (r *run) consolesAre(machine *object.VirtualMachine, expected int32) error {
	path := []string{"runtime.numMksConnections"}
	return property.Wait(r.ctx, r.properties(), machine.Reference(), path,
		func(changes []types.PropertyChange) bool {
			for _, change := range changes {
				if change.Val == expected {
					return true
				}
			}
			return false
		})
}

// webSocket is the client's side of a WebSocket with binary messages. Its Read returns their bytes
// as one stream.
type webSocket struct {
	connection io.ReadWriteCloser
	reader     *bufio.Reader
	// The number of bytes of the current frame that were not read yet.
	rest uint64
}

// The frames of RFC 6455, section 5.2, with the bit of a last frame.
const (
	binaryFrame = 0x82
	closeFrame  = 0x88
)

// openWebSocket opens a console with the subprotocol binary, and checks that the certificate of the
// host has this thumbprint.
func openWebSocket(link *url.URL, thumbprint string) (*webSocket, error) {
	address := *link
	address.Scheme = "https"
	request, err := http.NewRequest(http.MethodGet, address.String(), nil)
	if err != nil {
		return nil, err
	}
	random := make([]byte, 16)
	if _, err := rand.Read(random); err != nil {
		return nil, err
	}
	key := base64.StdEncoding.EncodeToString(random)
	request.Header.Set("Connection", "Upgrade")
	request.Header.Set("Upgrade", "websocket")
	request.Header.Set("Sec-WebSocket-Version", "13")
	request.Header.Set("Sec-WebSocket-Key", key)
	request.Header.Set("Sec-WebSocket-Protocol", "binary")
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	connection, isUpgraded := response.Body.(io.ReadWriteCloser)
	if response.StatusCode != http.StatusSwitchingProtocols || !isUpgraded {
		_ = response.Body.Close()
		return nil, fmt.Errorf("%s for the ticket", response.Status)
	}
	accepted := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	if err := first(
		expect(response.Header.Get("Sec-WebSocket-Protocol"), "binary"),
		expect(response.Header.Get("Sec-WebSocket-Accept"), base64.StdEncoding.EncodeToString(accepted[:])),
		expect(soap.ThumbprintSHA1(response.TLS.PeerCertificates[0]), thumbprint),
	); err != nil {
		_ = connection.Close()
		return nil, err
	}
	return &webSocket{connection: connection, reader: bufio.NewReader(connection)}, nil
}

// startRFB makes the handshake of RFB 3.8, and returns the name and the size of the screen.
func (s *webSocket) startRFB() (string, image.Point, error) {
	for _, step := range []struct{ received, answer string }{
		{"RFB 003.008\n", "RFB 003.008\n"},
		// One security type: none.
		{"\x01\x01", "\x01"},
		// It succeeded, and the client shares the screen.
		{"\x00\x00\x00\x00", "\x01"},
	} {
		received := make([]byte, len(step.received))
		if _, err := io.ReadFull(s, received); err != nil {
			return "", image.Point{}, err
		}
		if err := first(
			expect(string(received), step.received),
			s.send(binaryFrame, []byte(step.answer)),
		); err != nil {
			return "", image.Point{}, err
		}
	}
	var server struct {
		Width, Height uint16
		Format        [16]byte
		NameLength    uint32
	}
	if err := binary.Read(s, binary.BigEndian, &server); err != nil {
		return "", image.Point{}, err
	}
	// 32 bits, of which 24 are used, little endian, in true colour: red, green and blue of 8 bits.
	native := [16]byte{32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0}
	if err := first(
		expect(server.Format, native),
		expect(server.NameLength < 256, true),
	); err != nil {
		return "", image.Point{}, err
	}
	name := make([]byte, server.NameLength)
	_, err := io.ReadFull(s, name)
	return string(name), image.Pt(int(server.Width), int(server.Height)), err
}

// close ends the WebSocket, and waits for the host's close.
func (s *webSocket) close() error {
	// The code of a normal end.
	if err := s.send(closeFrame, []byte{0x03, 0xe8}); err != nil {
		return err
	}
	for {
		if _, err := io.CopyN(io.Discard, s.reader, int64(s.rest)); err != nil {
			return err
		}
		kind, err := s.nextFrame()
		if err != nil || kind == closeFrame {
			return err
		}
	}
}

func (s *webSocket) Read(into []byte) (int, error) {
	for s.rest == 0 {
		kind, err := s.nextFrame()
		if err != nil {
			return 0, err
		}
		if kind != binaryFrame {
			return 0, fmt.Errorf("a frame of kind %#x", kind)
		}
	}
	if uint64(len(into)) > s.rest {
		into = into[:s.rest]
	}
	length, err := s.reader.Read(into)
	s.rest -= uint64(length)
	return length, err
}

// nextFrame reads the head of a frame, and returns its kind.
func (s *webSocket) nextFrame() (byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(s.reader, head[:]); err != nil {
		return 0, err
	}
	s.rest = uint64(head[1])
	var err error
	switch head[1] {
	case 126:
		var length uint16
		err = binary.Read(s.reader, binary.BigEndian, &length)
		s.rest = uint64(length)
	case 127:
		err = binary.Read(s.reader, binary.BigEndian, &s.rest)
	}
	return head[0], err
}

// send sends a frame of at most 125 bytes, with the mask that clients need.
func (s *webSocket) send(kind byte, content []byte) error {
	mask := make([]byte, 4)
	if _, err := rand.Read(mask); err != nil {
		return err
	}
	frame := append([]byte{kind, 0x80 | byte(len(content))}, mask...)
	for at, value := range content {
		frame = append(frame, value^mask[at%len(mask)])
	}
	_, err := s.connection.Write(frame)
	return err
}
