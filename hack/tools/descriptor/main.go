// Prints the descriptor of the CRI as its Go package has it: every message's fields, every enum's values and
// every call, with the names and numbers that go over the wire. The tests compare proto/cri/runtime.proto with it.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"google.golang.org/protobuf/reflect/protoreflect"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type field struct {
	Name     string `json:"name"`
	Number   int32  `json:"number"`
	Kind     string `json:"kind"`
	Type     string `json:"type,omitempty"`
	Repeated bool   `json:"repeated"`
	Oneof    string `json:"oneof,omitempty"`
}

type call struct {
	Name         string `json:"name"`
	Input        string `json:"input"`
	Output       string `json:"output"`
	ServerStream bool   `json:"server_stream"`
}

type schema struct {
	Package  string                      `json:"package"`
	Messages map[string][]field          `json:"messages"`
	Enums    map[string]map[string]int32 `json:"enums"`
	Services map[string][]call           `json:"services"`
}

func messages(all protoreflect.MessageDescriptors, s *schema) {
	for i := range all.Len() {
		m := all.Get(i)
		fields := []field{}
		for j := range m.Fields().Len() {
			f := m.Fields().Get(j)
			one := field{
				Name:     string(f.Name()),
				Number:   int32(f.Number()),
				Kind:     f.Kind().String(),
				Repeated: f.Cardinality() == protoreflect.Repeated,
			}
			if f.Message() != nil {
				one.Type = string(f.Message().FullName())
			}
			if f.Enum() != nil {
				one.Type = string(f.Enum().FullName())
			}
			if o := f.ContainingOneof(); o != nil && !o.IsSynthetic() {
				one.Oneof = string(o.Name())
			}
			fields = append(fields, one)
		}
		s.Messages[string(m.FullName())] = fields
		enums(m.Enums(), s)
		messages(m.Messages(), s)
	}
}

func enums(all protoreflect.EnumDescriptors, s *schema) {
	for i := range all.Len() {
		e := all.Get(i)
		values := map[string]int32{}
		for j := range e.Values().Len() {
			values[string(e.Values().Get(j).Name())] = int32(e.Values().Get(j).Number())
		}
		s.Enums[string(e.FullName())] = values
	}
}

func main() {
	file := runtime.File_staging_src_k8s_io_cri_api_pkg_apis_runtime_v1_api_proto
	s := schema{
		Package:  string(file.Package()),
		Messages: map[string][]field{},
		Enums:    map[string]map[string]int32{},
		Services: map[string][]call{},
	}
	messages(file.Messages(), &s)
	enums(file.Enums(), &s)
	for i := range file.Services().Len() {
		service := file.Services().Get(i)
		calls := []call{}
		for j := range service.Methods().Len() {
			m := service.Methods().Get(j)
			calls = append(calls, call{
				Name:         string(m.Name()),
				Input:        string(m.Input().FullName()),
				Output:       string(m.Output().FullName()),
				ServerStream: m.IsStreamingServer(),
			})
		}
		s.Services[string(service.FullName())] = calls
	}
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", " ")
	if err := out.Encode(s); err != nil {
		fmt.Fprintln(os.Stderr, "descriptor:", err)
		os.Exit(1)
	}
}
