// Recomputes every value of ../../status.json from its input fields, with Go's standard library
// only. Written from docs/decisions/0001-status-bytes.md and 0015-packed-maps.md, not from the
// Rust code. Exits 1 if anything differs.
//
//	go run . [path of status.json]
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	mathbits "math/bits"
	"os"
	"sort"
	"strings"
)

const chunkLen = 4096

var checks, failures int

func check(what string, expected, found any) {
	checks++
	if e, f := fmt.Sprint(expected), fmt.Sprint(found); e != f {
		failures++
		fmt.Fprintf(os.Stderr, "%s\n  recomputed %s\n  in file    %s\n", what, e, f)
	}
}

func must[T any](value T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, "judge:", err)
		os.Exit(1)
	}
	return value
}

// octets is hex text in the file.
type octets []byte

func (o *octets) UnmarshalJSON(text []byte) error {
	var digits string
	if err := json.Unmarshal(text, &digits); err != nil {
		return err
	}
	decoded, err := hex.DecodeString(digits)
	*o = decoded
	return err
}

func (o octets) String() string { return hex.EncodeToString(o) }

type oids struct {
	UUID  string
	Under []int
	Arcs  []struct {
		Use, Text string
		Last      int
		Arcs      []int
		Der       octets
	}
}

type binding struct {
	Log, Task, Root octets
	Bucket          uint32
	Index           uint64
}

type record struct {
	Kind, Cause byte
	Epoch       uint32
	Sequence    uint64
	Time        uint64
	Bucket      uint32
	Index       uint64
	Task        octets
	Bytes, Hash octets
}

type signer struct {
	Instance octets
	Counter  uint64
	Hash     octets
}

type head struct {
	Log        octets
	Generation byte
	Previous   *struct {
		Log        octets
		Generation byte
	}
	Epoch             uint32
	Sequence          uint64
	LogHash           octets `json:"log_hash"`
	Floor             uint32
	LargestLimitHours uint16 `json:"largest_limit_hours"`
	MaxAge            uint32 `json:"max_age"`
	Time              uint64
	Signer            signer
	Nonce             octets
	Bytes             octets
}

type statusMap struct {
	Bucket           uint32
	Ended, Suspended []uint64
	Chunks           uint32
	Digest, Packed   octets
}

// setRule says which positions are set: ranges, and those below the first number whose squares leave
// less than the third when divided by the second.
type setRule struct {
	Ranges  [][2]uint64
	Squares [3]uint64
}

type packing struct {
	Ended, Suspended setRule
	Chunks           uint32
	Digest, Packed   octets
}

type checkpoint struct {
	Log           octets
	Generation    byte
	Epoch         uint32
	Sequence      uint64
	LogHash       octets `json:"log_hash"`
	Floor         uint32
	Time          uint64
	Signer        signer
	Bytes, Digest octets
}

type vectors struct {
	Oid    oids
	Serial struct {
		Generation    byte
		Bucket        uint32
		Index         uint64
		Random, Bytes octets
	}
	Extension struct {
		Input binding
		Der   octets
	}
	Claim struct {
		Input binding
		Name  string
		Value map[string]any
	}
	Log struct {
		Log        octets
		Generation byte
		Genesis    octets
		Records    []record
	}
	Delta struct {
		From, To uint64
		Bytes    octets
	}
	Heads      []head
	Maps       []statusMap
	Packings   []packing
	Checkpoint checkpoint
}

// layout appends its parts: numbers big-endian, octets as they are.
func layout(parts ...any) octets {
	var out bytes.Buffer
	for _, part := range parts {
		switch part := part.(type) {
		case octets:
			out.Write(part)
		case string:
			out.WriteString(part)
		default:
			if err := binary.Write(&out, binary.BigEndian, part); err != nil {
				must(0, err)
			}
		}
	}
	return out.Bytes()
}

func u40(index uint64) octets {
	var eight [8]byte
	binary.BigEndian.PutUint64(eight[:], index)
	return eight[3:]
}

func zeros(count int) octets { return make(octets, count) }

func sum(parts ...any) octets {
	hash := sha256.Sum256(layout(parts...))
	return hash[:]
}

func judgeOids(v oids) {
	digits := strings.ReplaceAll(v.UUID, "-", "")
	arc := append([]int{}, v.Under...)
	for _, width := range []int{4, 4, 4, 4, 4, 6, 6} {
		number, ok := new(big.Int).SetString(digits[:width], 16)
		check("uuid digits", true, ok)
		arc = append(arc, int(number.Int64()))
		digits = digits[width:]
	}
	for _, oid := range v.Arcs {
		arcs := append(append([]int{}, arc...), oid.Last)
		check("oid arcs "+oid.Use, arcs, oid.Arcs)
		check("oid text "+oid.Use, asn1.ObjectIdentifier(arcs).String(), oid.Text)
		encoded := must(asn1.Marshal(asn1.ObjectIdentifier(arcs)))
		check("oid der "+oid.Use, octets(encoded[2:]), oid.Der)
		// What a certificate needs: Go's own parser takes it.
		var parsed asn1.ObjectIdentifier
		must(asn1.Unmarshal(encoded, &parsed))
		check("oid parsed "+oid.Use, arcs, []int(parsed))
	}
}

// taskBinding is the extension as encoding/asn1 sees it.
type taskBinding struct {
	Version             int
	Log, TaskID, RootID []byte
	Bucket, Index       int64
}

func judgeExtension(in binding, found octets) {
	value := taskBinding{1, in.Log, in.Task, in.Root, int64(in.Bucket), int64(in.Index)}
	check("extension", octets(must(asn1.Marshal(value))), found)
	var parsed taskBinding
	rest := must(asn1.Unmarshal(found, &parsed))
	check("extension parsed", value, parsed)
	check("extension rest", 0, len(rest))
}

func uuidText(id octets) string {
	digits := id.String()
	return strings.Join([]string{digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]}, "-")
}

func judgeClaim(in binding, name string, found map[string]any) {
	value := map[string]any{
		"v": 1, "log": base64.RawURLEncoding.EncodeToString(in.Log), "task": uuidText(in.Task),
		"root": uuidText(in.Root), "bucket": in.Bucket, "index": in.Index,
	}
	check("claim name", "https://taskmint.dev/task", name)
	// json sorts the members of maps.
	check("claim", string(must(json.Marshal(value))), string(must(json.Marshal(found))))
}

func (r record) encode() octets {
	return layout(byte(1), r.Kind, r.Cause, byte(0), r.Epoch, r.Sequence, r.Time, r.Bucket,
		u40(r.Index), zeros(7), r.Task, zeros(8))
}

// judgeLog returns the hash after each record.
func judgeLog(v vectors) []octets {
	link := sum("taskmint seed v1", v.Log.Log, v.Log.Generation)
	check("log genesis", link, v.Log.Genesis)
	var hashes []octets
	for _, r := range v.Log.Records {
		name := fmt.Sprintf("record %d", r.Sequence)
		check(name+" length", 64, len(r.encode()))
		check(name+" bytes", r.encode(), r.Bytes)
		link = sum("taskmint link v1", link, r.encode())
		check(name+" hash", link, r.Hash)
		hashes = append(hashes, link)
	}
	return hashes
}

func (s signer) encode() octets { return layout(s.Instance, s.Counter, s.Hash) }

func judgeHead(h head, logHash octets) {
	flags, nonce := byte(0), zeros(16)
	if len(h.Nonce) > 0 {
		flags, nonce = 1, h.Nonce
	}
	previousLog, previousGeneration := zeros(8), byte(0)
	if h.Previous != nil {
		flags |= 2
		previousLog, previousGeneration = h.Previous.Log, h.Previous.Generation
	}
	check("head log hash", logHash, h.LogHash)
	encoded := layout("taskmint head v1", h.Log, h.Generation, flags, h.LargestLimitHours, h.Epoch,
		h.Sequence, logHash, h.Floor, h.MaxAge, h.Time, h.Signer.encode(), nonce, previousLog,
		previousGeneration, zeros(7))
	check("head length", 176, len(encoded))
	check("head", encoded, h.Bytes)
}

func unpack(packed octets) map[uint32]octets {
	check("packed map version", 1, packed[0])
	count, rest := binary.BigEndian.Uint32(packed[1:]), packed[5:]
	chunks := map[uint32]octets{}
	for ; count > 0; count-- {
		number := binary.BigEndian.Uint32(rest)
		rest = rest[4:]
		var chunk octets
		for len(chunk) < chunkLen {
			control, length := rest[0], int(rest[0]&0x7f)+1
			rest = rest[1:]
			if control >= 0x80 {
				chunk = append(chunk, zeros(length)...)
			} else {
				chunk = append(chunk, rest[:length]...)
				rest = rest[length:]
			}
		}
		check("packed chunk length", chunkLen, len(chunk))
		chunks[number] = chunk
	}
	check("packed map rest", 0, len(rest))
	return chunks
}

// bits are read the lowest of each octet first.
type bits struct {
	octets octets
	at     int
}

func (b *bits) take(count int) (value int) {
	for place := 0; place < count; place++ {
		value |= int(b.octets[b.at/8]>>(b.at%8)&1) << place
		b.at++
	}
	return value
}

func (b *bits) zeros() (count int) {
	for b.take(1) == 0 {
		count++
	}
	return count
}

func (b *bits) gamma() int {
	below := b.zeros()
	return 1<<below | b.take(below)
}

func (b *bits) rice(k int) int { return b.zeros()<<k | b.take(k) }

func (b *bits) gaps(count, k int, value, rest byte) (set octets) {
	for ; count > 0; count-- {
		set = append(append(set, bytes.Repeat([]byte{1 - value}, b.rice(k))...), value)
	}
	return filled(set, rest)
}

func (b *bits) runs() (set octets) {
	value, count := byte(b.take(1)), b.gamma()
	k := [2]int{b.take(4), b.take(4)}
	for ; count > 1; count-- {
		set = append(set, bytes.Repeat([]byte{value}, b.rice(k[value])+1)...)
		value = 1 - value
	}
	return filled(set, value)
}

func filled(set octets, value byte) octets {
	return append(set, bytes.Repeat([]byte{value}, 4*chunkLen-len(set))...)
}

func (b *bits) set() (set octets) {
	if b.take(1) == 1 {
		count := b.gamma()
		k := mathbits.Len(uint(77 * (32768 - count) / (320 * count)))
		return b.gaps(count, k, 1, 0)
	}
	switch b.take(2) {
	case 0:
		value, rest, count := byte(b.take(1)), byte(b.take(1)), b.gamma()-1
		return b.gaps(count, b.take(4), value, rest)
	case 1:
		return b.runs()
	}
	for len(set) < 4*chunkLen {
		set = append(set, byte(b.take(1)))
	}
	return set
}

func unpackBits(packed octets) map[uint32]octets {
	check("packed map version", 2, packed[0])
	b := bits{octets: packed[5:]}
	chunks, number := map[uint32]octets{}, -1
	for count := binary.BigEndian.Uint32(packed[1:]); count > 0; count-- {
		number += b.gamma()
		ended, suspended := b.set(), zeros(4*chunkLen)
		if b.take(1) == 1 {
			suspended = b.set()
		}
		chunk := zeros(chunkLen)
		for position, end := range ended {
			chunk[position/4] |= (end | suspended[position]<<1) << (position % 4 * 2)
		}
		chunks[uint32(number)] = chunk
	}
	check("packed map rest", len(packed), 5+(b.at+7)/8)
	return chunks
}

func (r setRule) indices() (indices []uint64) {
	for _, bounds := range r.Ranges {
		for index := bounds[0]; index < bounds[1]; index++ {
			indices = append(indices, index)
		}
	}
	for index := uint64(0); index < r.Squares[0]; index++ {
		if index*index%r.Squares[1] < r.Squares[2] {
			indices = append(indices, index)
		}
	}
	return indices
}

// judgePacking holds a map against the same one by its statuses: the older packing says nothing of
// this one's.
func judgePacking(number int, p packing) {
	name := fmt.Sprintf("packing %d", number)
	chunks, digest := mapOf(p.Ended.indices(), p.Suspended.indices())
	check(name+" chunks", len(chunks), p.Chunks)
	check(name+" digest", digest, p.Digest)
	unpacked := unpackBits(p.Packed)
	check(name+" unpacked chunks", len(chunks), len(unpacked))
	for number, chunk := range chunks {
		check(fmt.Sprintf("%s chunk %d", name, number), chunk, unpacked[number])
	}
}

// judgeMap returns what a checkpoint says of the map.
func judgeMap(m statusMap) octets {
	chunks, digest := mapOf(m.Ended, m.Suspended)
	name := fmt.Sprintf("map %d", m.Bucket)
	check(name+" chunks", len(chunks), m.Chunks)
	check(name+" digest", digest, m.Digest)
	unpacked := unpack(m.Packed)
	check(name+" unpacked chunks", len(chunks), len(unpacked))
	for number, chunk := range chunks {
		check(fmt.Sprintf("%s chunk %d", name, number), chunk, unpacked[number])
	}
	return layout(uint32(len(chunks)), digest)
}

// mapOf makes a map's chunks, and their digest.
func mapOf(ended, suspended []uint64) (map[uint32]octets, octets) {
	chunks := map[uint32]octets{}
	set := func(indices []uint64, bits byte) {
		for _, index := range indices {
			number, position := uint32(index/(4*chunkLen)), index%(4*chunkLen)
			if chunks[number] == nil {
				chunks[number] = zeros(chunkLen)
			}
			chunks[number][position/4] |= bits << (position % 4 * 2)
		}
	}
	set(ended, 1)
	set(suspended, 2)
	var numbers []uint32
	for number := range chunks {
		numbers = append(numbers, number)
	}
	sort.Slice(numbers, func(a, b int) bool { return numbers[a] < numbers[b] })
	all := layout("taskmint bmap v1")
	for _, number := range numbers {
		all = layout(all, number, sum("taskmint chnk v1", chunks[number]))
	}
	return chunks, sum(all)
}

func judgeCheckpoint(c checkpoint, logHash octets, maps map[uint32]octets) {
	check("checkpoint log hash", logHash, c.LogHash)
	encoded := layout("taskmint ckpt v1", c.Log, c.Generation, byte(0), uint16(len(maps)), c.Epoch,
		c.Sequence, logHash, c.Floor, zeros(4), c.Time, c.Signer.encode())
	var buckets []uint32
	for bucket := range maps {
		buckets = append(buckets, bucket)
	}
	sort.Slice(buckets, func(a, b int) bool { return buckets[a] < buckets[b] })
	for _, bucket := range buckets {
		encoded = layout(encoded, bucket, maps[bucket])
	}
	check("checkpoint", encoded, c.Bytes)
	check("checkpoint digest", sum(encoded), c.Digest)
}

func main() {
	path := "../../status.json"
	if len(os.Args) > 1 {
		path = os.Args[1]
	}
	decoder := json.NewDecoder(must(os.Open(path)))
	var v vectors
	if err := decoder.Decode(&v); err != nil {
		must(0, err)
	}
	judgeOids(v.Oid)
	s := v.Serial
	check("serial", layout(byte(1), s.Generation, s.Bucket, u40(s.Index), s.Random), s.Bytes)
	check("serial length", 20, len(s.Bytes))
	judgeExtension(v.Extension.Input, v.Extension.Der)
	judgeClaim(v.Claim.Input, v.Claim.Name, v.Claim.Value)
	hashes := judgeLog(v)
	var run octets
	for _, r := range v.Log.Records[v.Delta.From-1 : v.Delta.To] {
		run = layout(run, r.encode())
	}
	check("delta", run, v.Delta.Bytes)
	for _, h := range v.Heads {
		judgeHead(h, hashes[h.Sequence-1])
	}
	maps := map[uint32]octets{}
	for number, p := range v.Packings {
		judgePacking(number, p)
	}
	for _, m := range v.Maps {
		maps[m.Bucket] = judgeMap(m)
	}
	judgeCheckpoint(v.Checkpoint, hashes[v.Checkpoint.Sequence-1], maps)
	fmt.Printf("status vectors, go: %d checked, %d differ\n", checks, failures)
	if failures > 0 {
		os.Exit(1)
	}
}
